"""Search for the best recipe within the parameter limit."""
