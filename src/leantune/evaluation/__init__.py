"""Evaluation of classifiers: run them over many rows, and judge the results.

`batches` computes features and probabilities of many rows. `tasks` defines what is measured for one label per text and
for several; `metrics`, `multi_label_metrics` and `intervals` compute the figures. `comparison` tests whether two
classifiers differ. `confidence`, `thresholds` and `abstention` decide when an answer counts. `nearest` finds similar
rows, and `agreement` compares logits with a reference.
"""
