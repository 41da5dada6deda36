"""Prediction of many files into a folder of parts, each with a manifest."""
