"""What speaks for a prediction? The nearest training texts, and the weight of each word."""
