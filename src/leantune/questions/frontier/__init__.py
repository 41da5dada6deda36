"""How small can the classifier be? Accuracy against trainable parameters, from one run."""
