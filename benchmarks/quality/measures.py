"""What every pipeline of the study is measured by, on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, log_loss


def measures_of(labels: Any, probabilities: Any, classes: Sequence[Any]) -> dict[str, float]:
    """Accuracy, macro F1 and log loss; ``probabilities`` are in the order of ``classes``, of which ``labels`` are."""
    predicted = np.asarray(classes)[np.asarray(probabilities).argmax(axis=1)]
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro")),
        "log_loss": float(log_loss(labels, probabilities, labels=classes)),
    }
