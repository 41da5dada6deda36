"""What training minimises: generalized cross-entropy for labels of which many are wrong (Zhang and Sabuncu, 2018, arXiv
1805.07836), and the supervised contrastive loss on what the head's output layer sees (Khosla et al., 2020, arXiv
2004.11362; beside cross-entropy Gunel et al., 2021, arXiv 2011.01403).

The texts of the contrast are those of one micro-step, of all processes: with ``accumulate`` fewer are compared.

S texts, D width, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from leantune.system import distributed

TEMPERATURE = 0.2
"""What cosines are divided by."""
ROBUSTNESS = 0.7
"""q of generalized cross-entropy, as published: 0 is cross-entropy, 1 the absolute error."""
NO_LABEL = -1
"""Label of rows that are only there so that every process gives as many."""


def generalized_cross_entropy(logits_SC: Tensor, labels_S: Tensor, weight_C: Tensor | None = None) -> Tensor:
    """``(1 - p^q) / q`` of the probability p of each label (Zhang and Sabuncu, 2018, eq. 6), summed over the texts: an
    fp32 scalar. A text that the classifier contradicts pulls less: its gradient is that of cross-entropy times ``p^q``.

    Args:
        logits_SC: ``(S, C)``.
        labels_S: ``(S,)`` class ids.
        weight_C: ``(C,)`` of the classes; None: all alike.
    """
    log_p = F.log_softmax(logits_SC.float(), -1).gather(1, labels_S[:, None])[:, 0]
    losses = -torch.expm1(ROBUSTNESS * log_p) / ROBUSTNESS
    return losses.sum() if weight_C is None else (weight_C[labels_S] * losses).sum()


def supervised_contrast(inputs_SD: Tensor, labels_S: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """The loss of every text summed over all, fp32 scalar: the mean over texts of its label of the log softmax over
    all other texts of cosines divided by ``temperature``, negated (Khosla et al., 2020, eq. 2). A text with a label of
    its own counts nothing.
    """
    units = F.normalize(inputs_SD.float(), dim=-1)
    is_same = torch.eye(len(units), dtype=torch.bool, device=units.device)
    with torch.autocast(units.device.type, enabled=False):  # full fine-tuning computes in bf16 by it
        cosines = units @ units.t()
    scaled = (cosines / temperature).masked_fill(is_same, torch.finfo(units.dtype).min)
    others = scaled.log_softmax(-1)
    is_positive = (labels_S[:, None] == labels_S) & ~is_same
    sums = torch.where(is_positive, others, 0.0).sum(-1)
    return -(sums / is_positive.sum(-1).clamp(min=1)).sum()


def of_all_processes(inputs_SD: Tensor, labels_S: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The texts of all processes; only those of this one pass a gradient on, which summed over the processes is whole.

    Args:
        inputs_SD: of this process, fp32.
        labels_S: its class ids.
        most: texts that any process has at most.
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
    """What a process without a text does while the others exchange theirs."""
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    of_all_processes(torch.zeros(0, width, device=device), nothing, most)
