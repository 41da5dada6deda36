"""Predictions of many files: kills, efficiency, memory, and what a large cluster would do."""
