"""AdamW with selective weight decay, and the learning rate by step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn


def adamw(
    trainable: Mapping[str, nn.Parameter],
    *,
    weight_decay: float,
    head_learning_rate_ratio: float = 1.0,
    hidden_learning_rate_ratio: float = 1.0,
    output_layer: str = "",
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters.

    Biases, norms and the singular values E do not decay: the allocator reads the size of E.

    Args:
        trainable: parameters by name.
        weight_decay: weight decay of the matrices.
        head_learning_rate_ratio: learning rate of the output layer over that of A and B.
        hidden_learning_rate_ratio: learning rate of the rest of the head over that of A and B.
        output_layer: name of the output layer.
    """
    ratios = {"lora_A": 1.0, "lora_B": 1.0, "lora_E": 1.0}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trainable.items():
        last = name.rpartition(".")[2]
        decay = weight_decay if parameter.ndim == 2 and last != "lora_E" else 0.0
        is_output = name.startswith(f"{output_layer}.")
        ratio = ratios.get(last, head_learning_rate_ratio if is_output else hidden_learning_rate_ratio)
        groups.setdefault((decay, ratio), []).append(parameter)
    # lr is set by the loop before every step
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "lr_ratio": ratio}
            for (decay, ratio), parameters in groups.items()
        ],
        lr=0.0,
        betas=(0.9, 0.999),
        eps=1e-8,
        fused=True,
    )


def default_learning_rate(width: int) -> float:
    """Peak learning rate of A and B for an encoder of this width.

    It is 0.003 up to width 384 and 0.001 at 768, where it was measured (benchmarks/notebook). Elsewhere it is the power
    law through both, rounded to three digits.

    >>> [default_learning_rate(width) for width in (128, 384, 512, 768, 1024)]
    [0.003, 0.003, 0.0019, 0.001, 0.000634]
    """
    return float(f"{0.003 * min(1.0, 384 / width) ** math.log2(3):.3g}")


def learning_rate_at(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up to ``peak``, then linear decay that would reach 0 one step after the last.

    >>> [round(learning_rate_at(s, peak=1.0, warmup_steps=2, total_steps=6), 2) for s in range(1, 7)]
    [0.5, 1.0, 0.8, 0.6, 0.4, 0.2]
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    return peak * (total_steps + 1 - step) / (total_steps + 1 - warmup_steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every group to its multiple of ``learning_rate``."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_ratio"]
