"""Compare two classifiers on the same rows: how much they differ, and whether that exceeds chance.

Shapes: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from leantune.errors import DataError
from leantune.evaluation.intervals import Interval, mcnemar_p_value, paired_interval
from leantune.evaluation.metrics import Integers

SIGNIFICANCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two classifiers, a and b, on the same rows. Rates are fractions."""

    num_rows: int
    only_a_right: int
    only_b_right: int
    difference: float
    """Accuracy of b minus accuracy of a: the gain of b."""
    interval: Interval
    """95 % interval of the difference."""
    p_value: float
    """Mid-p value of McNemar's test of "a and b err equally often"."""

    @property
    def distinguishable(self) -> bool:
        """Whether the rows show a difference at the 5 % level."""
        return self.p_value < SIGNIFICANCE

    def sentence(self, subject: str = "the two classifiers") -> str:
        """Describe the finding in a sentence.

        Args:
            subject: names of a and b, in this order, such as ``"checkpoints of steps 293 and 586"``.
        """
        verdict = "can" if self.distinguishable else "cannot"
        low, high = 100 * self.interval.low, 100 * self.interval.high
        return (
            f"{subject} {verdict} be told apart on {self.num_rows:,} rows: "
            f"difference {100 * self.difference:.1f} points ({low:.1f} to {high:.1f}), "
            f"McNemar p = {self.p_value:.2g}"
        )


def compare(predicted_a_N: Integers, predicted_b_N: Integers, label_ids_N: Integers) -> Comparison:
    """Compare two classifiers on the same rows, row by row.

    Args:
        predicted_a_N: class ids that a predicts.
        predicted_b_N: class ids that b predicts.
        label_ids_N: true class ids.

    Raises:
        DataError: if there are no rows.
        ValueError: if the arrays differ in length.
    """
    if not predicted_a_N.shape == predicted_b_N.shape == label_ids_N.shape:
        raise ValueError(
            "predictions and labels must have one shape. "
            f"Got {predicted_a_N.shape}, {predicted_b_N.shape} and {label_ids_N.shape} instead."
        )
    num_rows = len(label_ids_N)
    if num_rows == 0:
        raise DataError("no rows to compare two classifiers on: give at least one labelled row")
    right_a_N, right_b_N = predicted_a_N == label_ids_N, predicted_b_N == label_ids_N
    only_a, only_b = int((right_a_N & ~right_b_N).sum()), int((right_b_N & ~right_a_N).sum())
    return Comparison(
        num_rows=num_rows,
        only_a_right=only_a,
        only_b_right=only_b,
        difference=(only_b - only_a) / num_rows,
        interval=paired_interval(only_a, only_b, num_rows),
        p_value=mcnemar_p_value(only_a, only_b),
    )
