"""Accuracy by number of training rows, with a forecast for more rows."""
