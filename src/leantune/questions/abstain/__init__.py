"""When should a classifier not answer? Thresholds that keep a wanted precision."""
