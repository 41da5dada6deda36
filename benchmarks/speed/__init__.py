"""leantune against the usual pipeline on the same rows, alternately, in fresh processes."""
