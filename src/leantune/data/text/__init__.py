"""Reads rows of texts and labels from files, folders and the hub."""
