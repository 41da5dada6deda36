"""Trains a classifier, from rows to artefacts; `run` reads from top to bottom.

`before/`: what is decided before the first step. The steps: `build`, `loop`, `objectives`, `losses`, `optimizer`.
Between steps: `callbacks`, `checkpoint`, `state`, `history`, `signals`, `trackers`. `after/`: what is measured and
written at the end. `resume` continues a run, `selection` chooses its checkpoint, `warnings` says what a user should
know, `trial` trains on some rows for a question.
"""
