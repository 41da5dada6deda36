"""Metrics of one evaluation, with confidence intervals for the number of rows.

Shapes: N rows, C classes, K occupied cells of a confusion matrix, B bootstrap draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from leantune.errors import DataError, DivergedError
from leantune.evaluation.intervals import Interval, wilson_interval

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]

CALIBRATION_BINS = 15
BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMetrics:
    """Metrics of one class; a rate over no rows is None."""

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    """Number of rows with this true class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """One evaluation of one classifier. Rates are fractions; intervals are at 95 %."""

    num_rows: int
    accuracy: float
    """Share of correct rows; with several labels per row, share of rows with exactly the right label set."""
    accuracy_interval: Interval
    """Wilson's score interval."""
    macro_f1: float
    """Mean F1 of the classes that occur among labels or predictions, as in scikit-learn."""
    macro_f1_interval: Interval
    """Percentile bootstrap over rows; with many rare classes its coverage is below 95 %."""
    log_loss: float
    """Mean negative log-likelihood of the true class, in nats; with several labels per row, summed over all labels."""
    calibration_error: float
    """Expected calibration error of the top probability; with several labels per row, of all probabilities."""
    per_class: tuple[ClassMetrics, ...]
    """Metrics of each class, in the order of the label ids."""
    confusion: tuple[tuple[int, int, int], ...]
    """Occupied cells of the confusion matrix (true id, predicted id, rows); empty with several labels per row."""
    micro_f1: float | None = None
    """F1 over all pairs of a row and a class; None with one label per row, like the four fields after it."""
    micro_f1_interval: Interval | None = None
    """Percentile bootstrap over rows."""
    lrap: float | None = None
    """Label ranking average precision."""
    lrap_interval: Interval | None = None
    """Percentile bootstrap over rows."""
    hamming_loss: float | None = None
    """Share of pairs of a row and a class that are predicted wrongly."""

    @property
    def headline(self) -> tuple[str, float]:
        """Name and value of the main metric."""
        return ("accuracy", self.accuracy) if self.micro_f1 is None else ("micro F1", self.micro_f1)

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON types; intervals become ``[low, high]``."""
        found = {name: value for name, value in asdict(self).items() if value is not None}
        intervals = {name: getattr(self, name).to_json() for name in found if name.endswith("_interval")}
        return (
            found
            | intervals
            | {
                "per_class": [asdict(one) for one in self.per_class],
                "confusion": [list(cell) for cell in self.confusion],
            }
        )

    def summary(self) -> str:
        """One line for a terminal: ``accuracy 96.3 % (95.4 to 97.0), macro F1 …, 2,189 rows``."""
        accuracy = _percent_with_interval(self.accuracy, self.accuracy_interval)
        macro_f1 = _percent_with_interval(self.macro_f1, self.macro_f1_interval)
        if self.micro_f1 is not None and self.micro_f1_interval is not None and self.lrap is not None:
            return (
                f"micro F1 {_percent_with_interval(self.micro_f1, self.micro_f1_interval)}, macro F1 {macro_f1}, "
                f"LRAP {100 * self.lrap:.1f} %, all labels right {100 * self.accuracy:.1f} %, "
                f"log loss {self.log_loss:.3f}, {self.num_rows:,} rows"
            )
        return (
            f"accuracy {accuracy}, macro F1 {macro_f1}, log loss {self.log_loss:.3f}, "
            f"calibration error {100 * self.calibration_error:.1f} %, {self.num_rows:,} rows"
        )


def evaluate_probabilities(
    probabilities_NC: Floats, label_ids_N: Integers, label_names: Sequence[str], *, seed: int = 0
) -> Metrics:
    """Measure predicted class probabilities against the true labels.

    The order of the rows does not matter, not even for the bootstrap. Ties go to the lower id.

    Args:
        probabilities_NC: one row per text, one column per class; rows sum to 1.
        label_ids_N: true class ids, ``0 <= id < C``.
        label_names: the C class names in the order of the ids.
        seed: seed of the bootstrap.

    Raises:
        DataError: if there are no rows.
        DivergedError: if a probability is not finite.
        ValueError: if shapes or ids do not match, or rows are not probabilities.
    """
    _check(probabilities_NC, label_ids_N, len(label_names))
    predicted_N = probabilities_NC.argmax(axis=1)
    confusion = occupied_cells(label_ids_N, predicted_N, len(label_names))
    per_class = tuple(_per_class(label_ids_N, predicted_N, label_names))
    macro_f1 = float(np.mean([one.f1 for one in per_class if one.f1 is not None]))
    num_rows, num_right = len(label_ids_N), int((predicted_N == label_ids_N).sum())
    accuracy_interval = wilson_interval(num_right, num_rows)
    return Metrics(
        num_rows=num_rows,
        accuracy=num_right / num_rows,
        accuracy_interval=accuracy_interval,
        macro_f1=macro_f1,
        # if all rows are right all draws are equal; the interval of the accuracy, which is just as perfect, replaces it
        macro_f1_interval=(
            accuracy_interval
            if num_right == num_rows
            else _macro_f1_interval(np.array(confusion), macro_f1, len(label_names), seed)
        ),
        log_loss=_log_loss(probabilities_NC, label_ids_N),
        calibration_error=_calibration_error(probabilities_NC, predicted_N == label_ids_N),
        per_class=per_class,
        confusion=confusion,
    )


def _check(probabilities_NC: Floats, label_ids_N: Integers, num_classes: int) -> None:
    num_rows = len(label_ids_N)
    if num_rows == 0:
        raise DataError("no rows to evaluate on: give at least one labelled row")
    if probabilities_NC.shape != (num_rows, num_classes):
        raise ValueError(
            f"probabilities must have shape {(num_rows, num_classes)}: a row for each label, a column "
            f"for each name. Got {probabilities_NC.shape} instead."
        )
    if label_ids_N.min() < 0 or label_ids_N.max() >= num_classes:
        raise ValueError(
            f"label ids must lie in 0..{num_classes - 1}. "
            f"Got {label_ids_N.min()}..{label_ids_N.max()} instead."
        )
    num_bad = int((~np.isfinite(probabilities_NC)).any(axis=1).sum())
    if num_bad:
        raise DivergedError(f"{num_bad:,} of {num_rows:,} rows have a probability that is not finite")
    sums_N = probabilities_NC.sum(axis=1, dtype=np.float64)
    if probabilities_NC.min() < 0 or np.abs(sums_N - 1).max() > 0.01:
        raise ValueError("rows must be probabilities that sum to 1. Got something else: logits?")


def occupied_cells(
    label_ids_N: Integers, predicted_N: Integers, num_classes: int
) -> tuple[tuple[int, int, int], ...]:
    """Nonempty cells of the confusion matrix: true class, predicted class, number of rows.

    There is at most one per row, however many classes there are.

    >>> occupied_cells(np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 1]), 2)
    ((0, 0, 3), (0, 1, 1), (1, 1, 2))
    """
    from sklearn.metrics import confusion_matrix  # imported here because prediction does not need it

    counts_CC = confusion_matrix(label_ids_N, predicted_N, labels=range(num_classes))
    true_K, predicted_K = counts_CC.nonzero()
    counts_K = counts_CC[true_K, predicted_K]
    return tuple(zip(true_K.tolist(), predicted_K.tolist(), counts_K.tolist(), strict=True))


def _per_class(
    label_ids_N: Integers, predicted_N: Integers, label_names: Sequence[str]
) -> Iterator[ClassMetrics]:
    from sklearn.metrics import precision_recall_fscore_support

    rates = precision_recall_fscore_support(
        label_ids_N, predicted_N, labels=range(len(label_names)), zero_division=np.nan
    )
    for label, *figures, support in zip(label_names, *(each.tolist() for each in rates), strict=True):
        precision, recall, f1 = (None if math.isnan(rate) else rate for rate in figures)
        yield ClassMetrics(label=label, precision=precision, recall=recall, f1=f1, support=support)


def _one_hot(classes_K: npt.NDArray[np.int64], num_classes: int) -> Any:
    """A sparse matrix ``(K, C)`` with a single one in each row."""
    from scipy.sparse import csr_array  # imported here because prediction does not need it

    ones, starts = np.ones(len(classes_K)), np.arange(len(classes_K) + 1)
    return csr_array((ones, classes_K, starts), shape=(len(classes_K), num_classes))


def _macro_f1_interval(
    cells_K3: npt.NDArray[np.int64], macro_f1: float, num_classes: int, seed: int
) -> Interval:
    """Percentile bootstrap interval of the macro F1 (Efron and Tibshirani, 1993, chapter 13).

    F1 does not distinguish rows in one cell, so drawing N rows with replacement means drawing the cells' counts from
    one multinomial: the cost depends on the number of occupied cells, not on N.
    """
    true_K, predicted_K, counts_K = cells_K3.T
    num_rows = int(counts_K.sum())
    generator = np.random.default_rng(seed)
    drawn_BK = generator.multinomial(num_rows, counts_K / num_rows, size=BOOTSTRAP_DRAWS).astype(np.float64)
    true_KC, predicted_KC = (_one_hot(classes_K, num_classes) for classes_K in (true_K, predicted_K))
    right_BC = drawn_BK @ true_KC.multiply(predicted_KC).tocsr()
    total_BC = drawn_BK @ (true_KC + predicted_KC)
    macro_B = ratio(2 * right_BC, total_BC).sum(axis=1) / (total_BC > 0).sum(axis=1)
    low, high = np.percentile(macro_B, [2.5, 97.5])
    # A draw can miss a rare class, which skews the percentiles; the interval must still contain the estimate.
    return Interval(min(float(low), macro_f1), max(float(high), macro_f1))


def _log_loss(probabilities_NC: Floats, label_ids_N: Integers) -> float:
    """Mean log loss; probabilities are clipped at the dtype's epsilon, as in scikit-learn, so none is infinite."""
    smallest = np.finfo(probabilities_NC.dtype).eps
    likelihood_N = probabilities_NC[np.arange(len(label_ids_N)), label_ids_N].astype(np.float64)
    return float(-np.log(likelihood_N.clip(smallest, 1.0)).mean()) + 0.0  # not the negative zero


def _calibration_error(probabilities_NC: Floats, is_right_N: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error (Guo et al., 2017, arXiv 1706.04599, equation 3).

    The row-weighted mean over bins of |accuracy - mean top probability|; bin m of M is ((m - 1) / M, m / M].
    """
    top_N = probabilities_NC.max(axis=1).astype(np.float64)
    bins_N = np.clip(np.ceil(top_N * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    gap_M = np.bincount(bins_N, weights=is_right_N - top_N, minlength=CALIBRATION_BINS)
    return float(np.abs(gap_M).sum() / len(top_N))


def ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Element-wise quotient; 0 where the denominator is 0."""
    quotient = np.zeros(denominator.shape, dtype=np.float64)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _percent_with_interval(rate: float, interval: Interval) -> str:
    return f"{100 * rate:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"
