"""Labelled texts: from files to examples, labels, splits and token tables.

`text/` reads the rows of any source; `labels`, `label_sets` and `label_column` give classes their ids; `split` holds
rows out; `tokens/` makes token ids, keeps them on disk and hands out batches.
"""
