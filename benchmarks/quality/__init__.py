"""When adaptive rank pays: the study behind leantune's defaults."""
