"""The loss of a batch by its labels: one a text, or any number.

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
    """What training minimises, beside the contrast."""

    def loss(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        *,
        smoothing: float = 0.0,
        is_robust: bool = False,
    ) -> Tensor:
        """Summed over the texts: an fp32 scalar.

        Args:
            logits: ``(S, C)``.
            labels: of the texts.
            weight: ``(C,)`` of the classes, on the same device; None: all alike.
            smoothing: share of a target that is spread over what else it could be.
            is_robust: whether many labels are wrong; for one label a text.
        """

    def size(self, label_ids: npt.NDArray[np.int64], weight: Tensor | None) -> float:
        """What the sum over these texts is divided by."""

    def balanced(self, rows: LabelledRows, num_classes: int) -> Tensor:
        """``(C,)`` fp32 of ``class_weights=balanced``."""


class OneLabel:
    """Cross-entropy, or what the recipe names in its place."""

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
        """The texts, or the weights of their labels."""
        return float(len(label_ids)) if weight is None else float(weight[torch.from_numpy(label_ids)].sum())

    def balanced(self, rows: LabelledRows, num_classes: int) -> Tensor:
        """``N / (C * n_c)``, as scikit-learn defines them for the C classes that occur; 0 for others, which smoothed
        labels would else give all the weight.
        """
        counts = np.bincount(rows.label_ids, minlength=num_classes)
        weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)) * (counts > 0)
        return torch.tensor(weights, dtype=torch.float32)


class SeveralLabels:
    """Binary cross-entropy of each label, summed over the classes and averaged over the texts.

    So its gradient is, class by class, probability less label, as that of cross-entropy is: the default learning rate
    and ``max_grad_norm`` fit as they are. A mean over the classes would shrink it with their number.
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
        """The texts."""
        return float(len(label_ids))

    def balanced(self, rows: LabelledRows, num_classes: int) -> Tensor:
        """Rows without a label for each row with it, from 1 to `MOST_WEIGHT`; 1 where no row has it."""
        counts = counts_of(rows.label_ids, num_classes)
        weights = np.where(counts > 0, (len(rows) - counts) / np.maximum(counts, 1), 1.0)
        return torch.tensor(weights.clip(1.0, MOST_WEIGHT), dtype=torch.float32)


def objective_of(rows: LabelledRows) -> Objective:
    """The objective of rows."""
    return SeveralLabels() if rows.is_multi_label else OneLabel()
