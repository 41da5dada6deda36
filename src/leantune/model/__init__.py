"""Pretrained encoders as text classifiers: config and weights from a folder or the hub, the encoder itself, the head.

`encoder` computes, `families` says what each family of transformers calls its parts, `padded` runs what is in no family
as transformers' own model, and `build` puts a classifier together. All of them answer `features` and `logits`.
"""
