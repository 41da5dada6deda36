"""Is what is deployed what was measured? Every form of a run on the same rows."""
