"""Search for wrong labels with classifiers that were not trained on them."""
