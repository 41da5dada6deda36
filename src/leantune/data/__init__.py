"""Reads labelled texts and turns them into examples, labels, splits and token tables.

`text/` reads the rows of any source. `labels`, `label_sets` and `label_column` map classes to ids. `split` holds rows
out. `tokens/` tokenizes, caches tokens on disk and provides batches.
"""
