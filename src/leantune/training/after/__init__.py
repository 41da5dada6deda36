"""After the last step: the checkpoint is chosen, measured and written, and rows to look at are listed."""
