"""Labelled texts: from files to examples, labels, splits and token tables.

`read` gives the examples of any source, which `sources` opens through `readers`; `labels` gives classes their ids;
`split` holds rows out; `tokenization` makes tokens, which `token_table` keeps on disk and `dataset` hands out.
"""
