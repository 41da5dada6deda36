"""Comparison of all deployable forms of a run on the same rows."""
