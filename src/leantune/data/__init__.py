"""Labelled texts: from files to examples, labels, splits and token tables.

`read` opens any source through `readers`; `labels` gives classes their ids; `split` holds rows out; `tokenization`
makes tokens, which `token_table` keeps on disk and `dataset` hands out.
"""
