"""Thresholds below which a classifier abstains to keep a given precision."""
