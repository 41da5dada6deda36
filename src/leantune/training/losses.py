"""Loss functions besides plain cross-entropy.

- Generalized cross-entropy, for data with many wrong labels (Zhang and Sabuncu, 2018, arXiv 1805.07836).
- Supervised contrastive loss on the inputs of the head's output layer (Khosla et al., 2020, arXiv 2004.11362; combined
  with cross-entropy by Gunel et al., 2021, arXiv 2011.01403). It compares the texts of one micro-step across all
  processes, so ``accumulate`` means fewer comparisons.

S texts, D width, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from leantune.system import distributed

TEMPERATURE = 0.2
"""Divisor of cosines in the contrastive loss."""
ROBUSTNESS = 0.7
"""q of generalized cross-entropy, as published: 0 is cross-entropy, 1 the absolute error."""
NO_LABEL = -1
"""Label of padding rows, which make every process contribute the same number of rows."""


def generalized_cross_entropy(logits_SC: Tensor, labels_S: Tensor, weight_C: Tensor | None = None) -> Tensor:
    """Generalized cross-entropy ``(1 - p^q) / q`` (Zhang and Sabuncu, 2018, eq. 6), summed over the texts: fp32 scalar.

    p is the probability of the label. A text that the classifier contradicts pulls less: its gradient is that of
    cross-entropy times ``p^q``.

    Args:
        logits_SC: ``(S, C)``.
        labels_S: ``(S,)`` class ids.
        weight_C: ``(C,)`` class weights; None: all equal.
    """
    log_p = F.log_softmax(logits_SC.float(), -1).gather(1, labels_S[:, None])[:, 0]
    losses = -torch.expm1(ROBUSTNESS * log_p) / ROBUSTNESS
    return losses.sum() if weight_C is None else (weight_C[labels_S] * losses).sum()


def supervised_contrast(inputs_SD: Tensor, labels_S: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Supervised contrastive loss summed over the texts, fp32 scalar (Khosla et al., 2020, eq. 2).

    For each text: the negated mean, over texts with the same label, of the log softmax over all other texts of cosines
    divided by ``temperature``. A text that is alone with its label contributes nothing.
    """
    units = F.normalize(inputs_SD.float(), dim=-1)
    is_same = torch.eye(len(units), dtype=torch.bool, device=units.device)
    with torch.autocast(units.device.type, enabled=False):  # full fine-tuning runs under bf16 autocast
        cosines = units @ units.t()
    scaled = (cosines / temperature).masked_fill(is_same, torch.finfo(units.dtype).min)
    others = scaled.log_softmax(-1)
    is_positive = (labels_S[:, None] == labels_S) & ~is_same
    sums = torch.where(is_positive, others, 0.0).sum(-1)
    return -(sums / is_positive.sum(-1).clamp(min=1)).sum()


def of_all_processes(inputs_SD: Tensor, labels_S: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Gather the texts of all processes. Only this process's texts get gradients, so sum them over processes.

    Args:
        inputs_SD: this process's inputs, fp32.
        labels_S: their class ids.
        most: the largest number of texts of any process.
    """
    if distributed.world_size() == 1:
        return inputs_SD, labels_S
    spare = most - len(inputs_SD)
    own = F.pad(inputs_SD.detach(), (0, 0, 0, spare))
    texts = distributed.gather_tensors(own)
    labels = distributed.gather_tensors(F.pad(labels_S, (0, spare), value=NO_LABEL))
    texts[distributed.rank()] = F.pad(inputs_SD, (0, 0, 0, spare))
    all_labels = torch.cat(labels)
    is_real = all_labels != NO_LABEL
    return torch.cat(texts)[is_real], all_labels[is_real]


def take_no_part(width: int, most: int, device: torch.device) -> None:
    """Join the exchange of `of_all_processes` from a process without texts."""
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    of_all_processes(torch.zeros(0, width, device=device), nothing, most)
