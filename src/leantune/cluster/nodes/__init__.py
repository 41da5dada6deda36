"""Training of one classifier on several nodes of a Ray cluster."""
