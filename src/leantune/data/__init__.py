"""Labelled texts from files: readers, labels, splits and token tables."""
