"""Trained classifiers: `load` opens them, `text_classifier` defines them, `predict` applies them to files.

`saved` and `adapters` read folders of runs, of PEFT and of transformers. `engines/` computes with other libraries, and
`export/` writes other standard forms. `multi_adapter` serves many classifiers over one encoder, and `writers` writes
predictions.
"""
