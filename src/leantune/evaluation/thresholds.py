"""Choose the probability from which a text gets a label, per class, on labelled rows.

N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from leantune.config.thresholds_file import Thresholds
from leantune.errors import CheckpointError
from leantune.evaluation.metrics import Floats, Integers

LEAST_POSITIVES = 10
"""Rows needed for a class to have a threshold of its own; with fewer, chance would decide it."""
DEFAULT = 0.5
"""Threshold if no row has any label, or no rows are held out."""
RULE = (
    f"F1 of the class is highest on the validation rows; a class with fewer than {LEAST_POSITIVES} of them has the "
    "threshold at which micro F1 of all classes is"
)
RULE_WITHOUT_ROWS = f"no validation rows: {DEFAULT} for all"


def best_threshold(probabilities_N: Floats, is_positive_N: npt.NDArray[np.bool_]) -> float:
    """The threshold with the highest F1, halfway to the next lower probability; the highest one of several.

    >>> best_threshold(np.array([0.9, 0.6, 0.4, 0.2]), np.array([True, False, True, False]))
    0.30000000000000004
    """
    if not is_positive_N.any():
        return DEFAULT
    order = np.argsort(-probabilities_N, kind="stable")
    descending = probabilities_N[order].astype(np.float64)
    hits = np.cumsum(is_positive_N[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + hits[-1])
    next_lower = np.append(descending[1:], -1.0)
    f1[descending == next_lower] = -1.0  # a threshold cannot separate equal probabilities
    best = int(f1.argmax())
    halfway = (descending[best] + max(0.0, next_lower[best])) / 2
    return float(halfway if next_lower[best] < halfway else descending[best])


def choose_thresholds(probabilities_NC: Floats, labels_NC: Integers) -> npt.NDArray[np.float64]:
    """Choose thresholds ``(C,)`` by the rule that `RULE` describes.

    Args:
        probabilities_NC: separate probability of each label.
        labels_NC: ones and zeros.
    """
    is_positive_NC = labels_NC == 1
    shared = best_threshold(probabilities_NC.reshape(-1), is_positive_NC.reshape(-1))
    return np.array(
        [
            best_threshold(probabilities_NC[:, c], is_positive_NC[:, c])
            if is_positive_NC[:, c].sum() >= LEAST_POSITIVES
            else shared
            for c in range(labels_NC.shape[1])
        ]
    )


def thresholds_of(saved: Thresholds | None, label_names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Thresholds ``(C,)`` from a classifier's file, or `DEFAULT` without a file.

    Raises:
        CheckpointError: if the file has another number of labels.
    """
    if saved is None:
        return np.full(len(label_names), DEFAULT)
    if len(saved.by_label) != len(label_names):
        raise CheckpointError(
            f"thresholds.json: damaged: {len(saved.by_label)} labels, and the classifier has {len(label_names)}"
        )
    if set(saved.by_label) == set(label_names):
        return np.array([saved.by_label[name] for name in label_names])
    return np.array(list(saved.by_label.values()))  # loaded with other label names, in the order of the ids
