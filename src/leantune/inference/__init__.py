"""Trained classifiers: `load` opens them, `text_classifier` is what they are, `predict` and `evaluate` use them.

`batches` runs a classifier over many rows; `metrics`, `confidence`, `intervals` and `comparison` judge what came out;
`nearest` and `attribution` say what speaks for a prediction; `export` writes other standard forms; `multi_adapter`
serves many classifiers over one encoder.
"""
