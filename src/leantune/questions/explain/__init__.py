"""Explanations of predictions by the nearest training texts and the weight of each word."""
