"""Would more labels help? Accuracy against the number of rows, and a forecast."""
