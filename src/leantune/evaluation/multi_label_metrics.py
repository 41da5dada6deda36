"""Metrics of one evaluation with any number of labels per text.

Shapes: N rows, C classes, B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from leantune.errors import DataError, DivergedError
from leantune.evaluation.intervals import Interval, wilson_interval
from leantune.evaluation.metrics import (
    BOOTSTRAP_DRAWS,
    CALIBRATION_BINS,
    ClassMetrics,
    Floats,
    Integers,
    Metrics,
    ratio,
)

Bools = npt.NDArray[np.bool_]


def evaluate_label_sets(
    probabilities_NC: Floats,
    labels_NC: Integers,
    label_names: Sequence[str],
    thresholds_C: npt.NDArray[np.float64],
    *,
    seed: int = 0,
) -> Metrics:
    """Measure predicted label probabilities against the true label sets.

    Args:
        probabilities_NC: separate probability of each label, from 0 to 1.
        labels_NC: ones and zeros.
        label_names: the C class names in the order of the columns.
        thresholds_C: the least probability of a predicted label.
        seed: seed of the bootstrap.

    Raises:
        DataError: if there are no rows.
        DivergedError: if a probability is not finite.
        ValueError: if shapes do not match, or rows are not probabilities.
    """
    _check(probabilities_NC, labels_NC, len(label_names))
    is_true = labels_NC == 1
    is_predicted = probabilities_NC >= thresholds_C
    counts_N3C = np.stack([is_true & is_predicted, ~is_true & is_predicted, is_true & ~is_predicted], axis=1)
    counts_3C = counts_N3C.sum(axis=0)
    precisions_N = ranking_precisions(probabilities_NC, is_true)
    micro_f1, macro_f1 = (float(each[0]) for each in _f1(counts_3C[None]))
    lrap = float(precisions_N.mean())
    num_rows, num_right = len(labels_NC), int((is_true == is_predicted).all(axis=1).sum())
    micro_B, macro_B, lrap_B = _bootstrap(counts_N3C, precisions_N, seed)
    return Metrics(
        num_rows=num_rows,
        accuracy=num_right / num_rows,
        accuracy_interval=wilson_interval(num_right, num_rows),
        macro_f1=macro_f1,
        macro_f1_interval=_interval(macro_B, macro_f1),
        log_loss=float(pair_log_losses(probabilities_NC, labels_NC).sum(axis=1).mean()),
        calibration_error=_calibration_error(probabilities_NC, is_true),
        per_class=tuple(_per_class(counts_3C, label_names)),
        confusion=(),
        micro_f1=micro_f1,
        micro_f1_interval=_interval(micro_B, micro_f1),
        lrap=lrap,
        lrap_interval=_interval(lrap_B, lrap),
        hamming_loss=float((is_true != is_predicted).mean()),
    )


def ranking_precisions(probabilities_NC: Floats, is_true_NC: Bools) -> npt.NDArray[np.float64]:
    """Ranking precision of each row ``(N,)``; the mean is scikit-learn's label ranking average precision.

    For each label of a row, take the share of right labels among all that are at least as probable, and average over
    its labels. It is 1 for a row with none or all of the labels.
    """
    from scipy.stats import rankdata  # imported here because prediction does not need it

    above_NC = rankdata(-probabilities_NC, method="max", axis=1)
    right_above_NC = rankdata(np.where(is_true_NC, -probabilities_NC, np.inf), method="max", axis=1)
    sizes_N = is_true_NC.sum(axis=1)
    sums_N = np.where(is_true_NC, right_above_NC / above_NC, 0.0).sum(axis=1)
    is_ranked_N = (sizes_N > 0) & (sizes_N < is_true_NC.shape[1])
    return np.asarray(np.where(is_ranked_N, sums_N / np.maximum(sizes_N, 1), 1.0))


def pair_log_losses(probabilities_NC: Floats, labels_NC: Integers) -> npt.NDArray[np.float64]:
    """Negative log-likelihood ``(N, C)`` of each label's presence or absence, in nats, clipped at epsilon."""
    smallest = np.finfo(probabilities_NC.dtype).eps
    likely_NC = np.where(labels_NC == 1, probabilities_NC, 1 - probabilities_NC).astype(np.float64)
    return np.asarray(np.abs(np.log(likely_NC.clip(smallest, 1.0))))


def _check(probabilities_NC: Floats, labels_NC: Integers, num_classes: int) -> None:
    num_rows = len(labels_NC)
    if num_rows == 0:
        raise DataError("no rows to evaluate on: give at least one labelled row")
    if not probabilities_NC.shape == labels_NC.shape == (num_rows, num_classes):
        raise ValueError(
            f"probabilities and labels must have shape {(num_rows, num_classes)}. "
            f"Got {probabilities_NC.shape} and {labels_NC.shape} instead."
        )
    num_bad = int((~np.isfinite(probabilities_NC)).any(axis=1).sum())
    if num_bad:
        raise DivergedError(f"{num_bad:,} of {num_rows:,} rows have a probability that is not finite")
    if probabilities_NC.min() < 0 or probabilities_NC.max() > 1:
        raise ValueError("rows must be probabilities. Got something else: logits?")


def _f1(counts_B3C: npt.NDArray[np.floating | np.integer]) -> tuple[Floats, Floats]:
    """Micro and macro F1 ``(B,)`` from counts of right, wrong and missed labels.

    Macro F1 averages over the classes that occur among labels or predictions.
    """
    right_BC, total_BC = 2 * counts_B3C[:, 0], 2 * counts_B3C[:, 0] + counts_B3C[:, 1] + counts_B3C[:, 2]
    micro_B = ratio(right_BC.sum(axis=1), total_BC.sum(axis=1))
    macro_B = ratio(ratio(right_BC, total_BC).sum(axis=1), (total_BC > 0).sum(axis=1))
    return micro_B, macro_B


def _per_class(counts_3C: npt.NDArray[np.integer], label_names: Sequence[str]) -> Iterator[ClassMetrics]:
    for label, right, wrong, missed in zip(label_names, *counts_3C.tolist(), strict=True):
        predicted, support, total = right + wrong, right + missed, 2 * right + wrong + missed
        yield ClassMetrics(
            label=label,
            precision=right / predicted if predicted else None,
            recall=right / support if support else None,
            f1=2 * right / total if total else None,
            support=support,
        )


def _bootstrap(counts_N3C: Bools, precisions_N: Floats, seed: int) -> tuple[Floats, Floats, Floats]:
    """Micro F1, macro F1 and LRAP ``(B,)`` of rows drawn with replacement."""
    generator = np.random.default_rng(seed)
    num_rows = len(precisions_N)
    flat = counts_N3C.reshape(num_rows, -1).astype(np.float32)
    drawn_B3C = np.empty((BOOTSTRAP_DRAWS, *counts_N3C.shape[1:]))
    lrap_B = np.empty(BOOTSTRAP_DRAWS)
    for b in range(BOOTSTRAP_DRAWS):
        times_N = np.bincount(generator.integers(0, num_rows, num_rows), minlength=num_rows)
        drawn_B3C[b] = (times_N.astype(np.float32) @ flat).reshape(counts_N3C.shape[1:])
        lrap_B[b] = times_N @ precisions_N / num_rows
    return *_f1(drawn_B3C), lrap_B


def _interval(drawn_B: Floats, estimate: float) -> Interval:
    """Percentile bootstrap interval (Efron and Tibshirani, 1993, chapter 13), extended to contain the estimate."""
    low, high = np.percentile(drawn_B, [2.5, 97.5])
    return Interval(max(0.0, min(float(low), estimate)), min(1.0, max(float(high), estimate)))


def _calibration_error(probabilities_NC: Floats, is_true_NC: Bools) -> float:
    """Mean |share - mean probability| over pairs of a text and a class, binned by probability."""
    flat = probabilities_NC.reshape(-1).astype(np.float64)
    bins = np.clip(np.ceil(flat * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=is_true_NC.reshape(-1) - flat, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(flat))
