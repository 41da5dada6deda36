"""Searches for the best recipe inside the limit."""
