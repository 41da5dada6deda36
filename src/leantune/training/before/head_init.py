"""Start the head from a linear probe: logistic regression on the inputs of the output layer.

This takes one forward pass over the training rows, or over some thousands of them (`rows_to_fit`). A random head spends
the first epoch learning what a convex fit finds in seconds, and disturbs the adapters meanwhile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from leantune.data.tokens.dataset import LabelledRows
from leantune.errors import DivergedError
from leantune.evaluation.batches import map_rows
from leantune.model.classifier import Classifier
from leantune.model.low_rank_output import set_weight
from leantune.training.before.one_against_rest import fit_one_against_rest

ENOUGH_ROWS = 5_000
"""Enough rows for a probe: 9,000 rows of AG News gave no better classifier (benchmarks/notebook)."""
ENOUGH_OF_A_CLASS = 100
"""Rows per class, if that makes more; not measured."""
MAX_ROWS = 20_000
"""Most rows of a probe, with any number of classes."""

INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Candidates for scikit-learn's C, on standardised features.

The one with the lowest log loss in cross-validation is then fitted to all rows of the probe.
"""
NUM_FOLDS = 5
ROWS_TO_COMPARE_BY = 4000
"""Rows to hold out, fold by fold, if there are as many.

With only 800, chance can decide between neighbouring values of C, and training does not recover from the weights of
a C that is ten times too large.
"""


def head_inputs(classifier: Classifier, rows: LabelledRows, batch_size: int) -> npt.NDArray[np.float32]:
    """The inputs ``(N, D)`` of the head's output layer."""
    return map_rows(classifier, rows, batch_size, classifier.features)


def _logistic(inverse_penalty: float) -> LogisticRegression:
    return LogisticRegression(C=inverse_penalty, max_iter=300, tol=1e-3)


def _best_inverse_penalty(
    features: npt.NDArray[np.float64], label_ids: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[float, float]:
    """The penalty with the lowest log loss on held-out rows, and that log loss per row.

    Only held-out rows whose class also occurs in the other folds count; 0.1 and infinity if there are none.
    """
    folds = np.array_split(rng.permutation(len(label_ids)), NUM_FOLDS)
    losses, num_held_out = dict.fromkeys(INVERSE_PENALTIES, 0.0), 0
    for fold in folds[: math.ceil(ROWS_TO_COMPARE_BY / len(folds[0]))]:
        fitted = np.delete(np.arange(len(label_ids)), fold)
        classes = np.unique(label_ids[fitted])
        held_out = fold[np.isin(label_ids[fold], classes)]
        if len(classes) < 2 or not len(held_out):
            continue
        num_held_out += len(held_out)
        for inverse_penalty in losses:
            probe = _logistic(inverse_penalty).fit(features[fitted], label_ids[fitted])
            probabilities = probe.predict_proba(features[held_out])
            losses[inverse_penalty] += log_loss(
                label_ids[held_out], probabilities, labels=classes, normalize=False
            )
    if not num_held_out:
        return 0.1, math.inf
    best = min(losses, key=lambda each: losses[each])
    return best, losses[best] / num_held_out


def _check_finite(inputs: npt.NDArray[np.float64], rows: LabelledRows) -> None:
    bad = np.flatnonzero(~np.isfinite(inputs).all(axis=1))
    if len(bad):
        raise DivergedError(
            f"the encoder outputs are not finite for {len(bad):,} of {len(rows):,} rows: use "
            f"precision=fp32, or check its weights. Rows: {rows.names_of(bad)}"
        )


def rows_to_fit(rows: LabelledRows, *, seed: int) -> LabelledRows:
    """Return ``rows``, or a random sample large enough for a probe, with at least one row of every class."""
    order = np.random.default_rng([seed, 0x9B0B]).permutation(len(rows))
    if rows.is_multi_label:
        shuffled = rows.label_ids[order]
        classes = np.flatnonzero(shuffled.any(axis=0))
        first_of_class = shuffled[:, classes].argmax(axis=0)
    else:
        classes, first_of_class = np.unique(rows.label_ids[order], return_index=True)
    enough = min(MAX_ROWS, max(ENOUGH_ROWS, ENOUGH_OF_A_CLASS * len(classes)))
    return rows if len(rows) <= enough else rows[np.union1d(order[:enough], order[first_of_class])]


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear classifier on the inputs of the output layer; K of C classes have rows."""

    class_ids: npt.NDArray[np.int64]
    """``(K,)``."""
    weight: npt.NDArray[np.float64]
    """``(K, D)``."""
    bias: npt.NDArray[np.float64]
    """``(K,)``."""
    num_rows: int
    """Number of rows that the probe was fitted to."""
    log_loss: float
    """Mean log loss of held-out rows in cross-validation; infinite if none could be held out."""
    scaled_bias: npt.NDArray[np.float64] | None = None
    """Bias ``(K,)`` to use with scaled weights (`PROBE_SCALE`), if each label has a classifier of its own.

    With it, the mean probability of each label equals its frequency. None: scale the bias like the weights.
    """


def fit_probe(classifier: Classifier, rows: LabelledRows, batch_size: int, *, seed: int) -> Probe:
    """Fit a probe to `rows_to_fit`; weight and bias include the standardisation of the features.

    Raises:
        DivergedError: if the encoder gives numbers that are not finite.
    """
    rows = rows_to_fit(rows, seed=seed)
    scaler = StandardScaler()
    inputs = head_inputs(classifier, rows, batch_size).astype(np.float64)
    _check_finite(inputs, rows)
    features = scaler.fit_transform(inputs)
    if rows.is_multi_label:
        return _one_against_rest(features, rows, scaler, seed)
    rng = np.random.default_rng([seed, 0x9B0C])
    with threadpool_limits(
        1, user_api="blas"
    ):  # in small products BLAS threads mostly wait for each other: 5.0 s instead of 1.2
        inverse_penalty, held_out_log_loss = _best_inverse_penalty(features, rows.label_ids, rng)
        probe = _logistic(inverse_penalty).fit(features, rows.label_ids)
    coefficients, intercepts = probe.coef_, probe.intercept_
    if len(probe.classes_) == 2:  # scikit-learn gives one row for two classes
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight = coefficients / scaler.scale_
    bias = intercepts - weight @ scaler.mean_
    return Probe(probe.classes_, weight, bias, len(rows), held_out_log_loss)


def _one_against_rest(
    features: npt.NDArray[np.float64], rows: LabelledRows, scaler: StandardScaler, seed: int
) -> Probe:
    """Fit a probe for each label separately."""
    with threadpool_limits(1, user_api="blas"):
        fitted = fit_one_against_rest(
            features,
            rows.label_ids,
            INVERSE_PENALTIES,
            np.random.default_rng([seed, 0x9B0C]),
            scale=PROBE_SCALE,
        )
    weight = fitted.weight / scaler.scale_
    return Probe(
        class_ids=np.arange(len(weight)),
        weight=weight,
        bias=fitted.bias - weight @ scaler.mean_,
        num_rows=len(rows),
        log_loss=fitted.log_loss,
        scaled_bias=fitted.scaled_bias - PROBE_SCALE * (weight @ scaler.mean_),
    )


@torch.no_grad()
def start_from_probe(classifier: Classifier, probe: Probe) -> None:
    """Copy ``probe`` into the output layer. Classes without a row get a zero weight and the lowest bias."""
    layer = classifier.output_layer
    weight = torch.zeros_like(layer.weight)
    weight[probe.class_ids] = torch.from_numpy(probe.weight).to(weight)
    set_weight(layer, weight)
    if layer.bias is not None:
        layer.bias.fill_(float(probe.bias.min()))
        layer.bias[probe.class_ids] = torch.from_numpy(probe.bias).to(layer.bias)


PROBE_SCALE = 0.3
"""Factor for the weights of the probe before training: at full size its margins leave little to gain."""


@torch.no_grad()
def scale_output_layer(
    classifier: Classifier, factor: float, bias: npt.NDArray[np.float64] | None = None
) -> None:
    """Multiply weights and bias of the output layer, and so the logits, by ``factor``; or set another ``bias (C,)``.

    A fully fitted probe is very confident on its rows. Its large weights keep the features from changing and leave the
    classifier overconfident (Tomihari and Sato, 2024, arXiv 2405.16747). Only its directions are worth keeping.
    """
    layer = classifier.output_layer
    set_weight(layer, layer.weight * factor)
    if layer.bias is not None and bias is not None:
        layer.bias.copy_(torch.from_numpy(bias))
    elif layer.bias is not None:
        layer.bias.mul_(factor)
