"""A classifier's answers on labelled rows in a few numbers per row, and how often it is right when confident.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leantune.config.record.confidence import BinRecord, ConfidenceRecord, CoverageRecord
from leantune.evaluation.metrics import Floats, Integers

NUM_BINS = 10
"""Number of confidence bins, and of points on the coverage curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The predicted class and two probabilities for each of N labelled rows."""

    label_ids: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    """``(N,)`` class ids; a tie goes to the lower id."""
    confidence: npt.NDArray[np.float32]
    """``(N,)`` probability of the predicted class."""
    of_label: npt.NDArray[np.float32]
    """``(N,)`` probability of the row's own label."""

    @classmethod
    def of(cls, probabilities_NC: Floats, label_ids_N: Integers) -> Answers:
        """Reduce class probabilities to answers."""
        rows = np.arange(len(label_ids_N))
        return cls(
            label_ids=label_ids_N.astype(np.int64),
            predicted=probabilities_NC.argmax(axis=1).astype(np.int64),
            confidence=probabilities_NC.max(axis=1).astype(np.float32),
            of_label=probabilities_NC[rows, label_ids_N].astype(np.float32),
        )

    @property
    def is_right(self) -> npt.NDArray[np.bool_]:
        """``(N,)`` whether prediction and label agree."""
        return np.equal(self.predicted, self.label_ids)

    def suspects(self) -> npt.NDArray[np.bool_]:
        """``(N,)`` whether the model confidently contradicts the label.

        It does if the probability of the predicted class is more than a half, and at least the mean probability that
        rows labelled with this class get for it (Northcutt, Jiang and Chuang, 2021, Confident Learning, equation 2).
        """
        size = 1 + int(max(self.label_ids.max(initial=0), self.predicted.max(initial=0)))
        rows_C = np.bincount(self.label_ids, minlength=size)
        sums_C = np.bincount(self.label_ids, weights=self.of_label, minlength=size)
        usual_C = np.where(rows_C > 0, sums_C / np.maximum(rows_C, 1), 1.0)
        is_sure_N = (self.confidence >= usual_C[self.predicted]) & (self.confidence > 0.5)
        return np.logical_and(~self.is_right, is_sure_N)


def confidence_record(answers: Answers) -> ConfidenceRecord:
    """How often the classifier is right at each confidence, for at least one row."""
    return ConfidenceRecord(
        mean_confidence=float(answers.confidence.mean(dtype=np.float64).clip(0, 1)),
        bins=_bins(answers),
        coverage=_coverage(answers),
        suspect_labels=int(answers.suspects().sum()),
    )


def _bins(answers: Answers) -> list[BinRecord]:
    bins_N = np.clip(np.ceil(answers.confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    counts = np.bincount(bins_N, minlength=NUM_BINS)
    sums = np.bincount(bins_N, weights=answers.confidence, minlength=NUM_BINS)
    right = np.bincount(bins_N, weights=answers.is_right, minlength=NUM_BINS)
    return [
        BinRecord(
            rows=int(count),
            mean_confidence=min(1.0, float(total / count)) if count else None,
            accuracy=float(hits / count) if count else None,
        )
        for count, total, hits in zip(counts, sums, right, strict=True)
    ]


def _coverage(answers: Answers) -> list[CoverageRecord]:
    """Accuracy on the most confident rows, for growing shares; ties keep the order of the data."""
    order = np.argsort(-answers.confidence, kind="stable")
    hits = np.cumsum(answers.is_right[order])
    ends = dict.fromkeys(-(-len(order) * i // NUM_BINS) for i in range(1, NUM_BINS + 1))
    return [
        CoverageRecord(
            rows=end,
            least_confidence=min(1.0, float(answers.confidence[order[end - 1]])),
            accuracy=float(hits[end - 1] / end),
        )
        for end in ends
    ]
