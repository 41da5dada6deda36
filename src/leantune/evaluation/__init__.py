"""Measures classifiers: runs them over many rows, and judges what comes out.

`batches` computes features and probabilities of many rows; `tasks` says what is measured, for one label a text and
for several; `metrics`, `multi_label_metrics` and `intervals` compute the figures; `comparison` tells two classifiers
apart; `confidence`, `thresholds` and `abstention` decide when an answer counts; `nearest` finds similar rows;
`agreement` compares logits with those of a reference.
"""
