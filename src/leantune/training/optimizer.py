"""AdamW with decay only where it belongs, and the learning rate by step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


def adamw(trainable: Mapping[str, nn.Parameter], *, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; no decay on biases, norms and the singular values E,
    whose size is what the allocator reads.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in trainable.items():
        is_matrix = parameter.ndim == 2 and not name.endswith("lora_E")
        (decayed if is_matrix else free).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    # lr is set by the loop before every step
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8, foreach=True)


def learning_rate_at(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up to ``peak``, then linear decay that would reach 0 one step after the last.

    >>> [round(learning_rate_at(s, peak=1.0, warmup_steps=2, total_steps=6), 2) for s in range(1, 7)]
    [0.5, 1.0, 0.8, 0.6, 0.4, 0.2]
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    return peak * (total_steps + 1 - step) / (total_steps + 1 - warmup_steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give all groups one learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
