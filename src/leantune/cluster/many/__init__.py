"""Trains the classifiers of a table, many at once."""
