"""Classifies many files into a folder of parts, each written once, with a manifest."""
