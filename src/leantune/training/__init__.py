"""Training a classifier, from rows to artefacts; start reading at `run`.

- `before/`: everything that is decided before the first step.
- `build`, `loop`, `objectives`, `losses`, `optimizer`: the steps themselves.
- `callbacks`, `checkpoint`, `state`, `history`, `signals`, `trackers`: what happens between steps.
- `after/`: what is measured and written at the end.
- `resume` continues a run, `selection` chooses its checkpoint, `warnings` tells the user what could go wrong,
  `trial` trains a classifier only to measure it.
"""
