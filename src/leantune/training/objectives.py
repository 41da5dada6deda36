"""The loss of a batch for one label per text, or for any number.

S texts, C classes.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from leantune.data.label_sets import counts_of
from leantune.data.tokens.dataset import LabelledRows
from leantune.training.losses import generalized_cross_entropy

MOST_WEIGHT = 10.0
"""Largest weight of a positive label with ``class_weights=balanced``; more would let rare classes dominate."""


class Objective(Protocol):
    """The loss that training minimises, apart from the contrastive one."""

    def loss(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        *,
        smoothing: float = 0.0,
        is_robust: bool = False,
    ) -> Tensor:
        """The loss summed over the texts: an fp32 scalar.

        Args:
            logits: ``(S, C)``.
            labels: labels of the texts.
            weight: ``(C,)`` class weights, on the same device; None: all equal.
            smoothing: share of a target that is spread over the alternatives.
            is_robust: use the loss for many wrong labels; only with one label per text.
        """

    def size(self, label_ids: npt.NDArray[np.int64], weight: Tensor | None) -> float:
        """Divisor that turns the sum over these texts into a mean."""

    def balanced(self, rows: LabelledRows, num_classes: int) -> Tensor:
        """Class weights ``(C,)`` fp32 for ``class_weights=balanced``."""


class OneLabel:
    """Cross-entropy, or generalized cross-entropy with ``is_robust``."""

    def loss(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        *,
        smoothing: float = 0.0,
        is_robust: bool = False,
    ) -> Tensor:
        """The loss for class ids ``(S,)``."""
        if is_robust:
            return generalized_cross_entropy(logits, labels, weight)
        return F.cross_entropy(
            logits,
            labels,
            weight=weight,
            label_smoothing=smoothing,
            reduction="sum",
        )

    def size(self, label_ids: npt.NDArray[np.int64], weight: Tensor | None) -> float:
        """The number of texts, or the sum of their label weights."""
        return float(len(label_ids)) if weight is None else float(weight[torch.from_numpy(label_ids)].sum())

    def balanced(self, rows: LabelledRows, num_classes: int) -> Tensor:
        """``N / (C * n_c)``, as scikit-learn defines it, for the C classes that occur; 0 for others.

        Otherwise smoothed labels would give absent classes all the weight.
        """
        counts = np.bincount(rows.label_ids, minlength=num_classes)
        weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)) * (counts > 0)
        return torch.tensor(weights, dtype=torch.float32)


class SeveralLabels:
    """Binary cross-entropy of each label, summed over the classes and averaged over the texts.

    Like that of cross-entropy, its gradient is probability minus label in each class, so the default learning rate and
    ``max_grad_norm`` stay valid. A mean over classes would shrink it by their number.
    """

    def loss(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        *,
        smoothing: float = 0.0,
        is_robust: bool = False,
    ) -> Tensor:
        """The loss for label sets ``(S, C)``; ``weight`` multiplies the loss of positive labels."""
        assert not is_robust, "with_task refuses it"
        targets = labels.float() * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits.float(), targets, pos_weight=weight, reduction="sum")

    def size(self, label_ids: npt.NDArray[np.int64], weight: Tensor | None) -> float:
        """The number of texts."""
        return float(len(label_ids))

    def balanced(self, rows: LabelledRows, num_classes: int) -> Tensor:
        """Ratio of rows without a label to rows with it, from 1 to `MOST_WEIGHT`; 1 if no row has it."""
        counts = counts_of(rows.label_ids, num_classes)
        weights = np.where(counts > 0, (len(rows) - counts) / np.maximum(counts, 1), 1.0)
        return torch.tensor(weights.clip(1.0, MOST_WEIGHT), dtype=torch.float32)


def objective_of(rows: LabelledRows) -> Objective:
    """The objective that fits the labels of ``rows``."""
    return SeveralLabels() if rows.is_multi_label else OneLabel()
