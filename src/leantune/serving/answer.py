"""An answer of the workers and the scores computed from its logits.

Shapes: N texts, C classes of a classifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Activation = Literal["none", "softmax", "sigmoid"]
"""Activation that turns logits into scores."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one request."""

    labels: tuple[str, ...]
    """C labels in the order of the scores."""
    logits: npt.NDArray[np.float32]
    """Logits, ``(N, C)``."""
    thresholds: tuple[float, ...] | None
    """Smallest probability of each predicted label, C values; None if a text has exactly one label."""
    num_tokens: int
    num_truncated: int
    total_s: float
    tokenization_s: float
    queue_s: float
    inference_s: float

    @property
    def is_multi_label(self) -> bool:
        """Whether a text may have several labels."""
        return self.thresholds is not None

    def predicted(self) -> npt.NDArray[np.bool_]:
        """Return a mask ``(N, C)`` of the most probable label, or of all labels that reach their thresholds."""
        scores = self.scores()
        if self.thresholds is not None:
            return np.asarray(scores >= np.array(self.thresholds))
        return np.asarray(np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None])

    def scores(self, activation: Activation | None = None) -> npt.NDArray[np.float64]:
        """Return scores ``(N, C)``. Without an activation: softmax, or sigmoid if a text may have several labels."""
        logits = self.logits.astype(np.float64)
        activation = activation or ("sigmoid" if self.is_multi_label else "softmax")
        if activation == "none":
            return logits
        if activation == "sigmoid":
            probabilities: npt.NDArray[np.float64] = 1 / (1 + np.exp(-logits))
            return probabilities
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return shares
