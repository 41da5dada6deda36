"""Pretrained encoders as text classifiers: config and weights from a folder or the hub, encoder and head.

`encoder` computes packed batches, `families` maps each family of transformers to it, `padded` runs all other
architectures as transformers' own models, and `build` assembles a classifier. All classifiers have `features` and
`logits`.
"""
