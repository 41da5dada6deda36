"""Trained classifiers: `load` opens them, `text_classifier` is what they are, `predict` uses them on files.

`saved` and `adapters` read what a run or somebody else wrote; `engines/` computes with other libraries; `export/`
writes other standard forms; `multi_adapter` serves many classifiers over one encoder; `writers` writes predictions.
"""
