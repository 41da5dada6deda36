"""Several runs on the same rows: which is better, in which classes, and where they disagree."""
