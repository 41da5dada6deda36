"""Training of many classifiers from a table of jobs."""
