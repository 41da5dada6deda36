"""The update of one layer as three tensors, and their initial values.

R rank, the number of triplets of the layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Triplets:
    """One module's update: ``scaling * B ((A * E) x)``."""

    A: Tensor
    """``(R, in)`` fp32."""
    E: Tensor
    """``(R, 1)`` fp32."""
    B: Tensor
    """``(out, R)`` fp32."""

    @classmethod
    def none(cls, in_features: int, out_features: int) -> Triplets:
        """An empty update of rank 0, left when all triplets of a module are pruned."""
        return cls(torch.empty(0, in_features), torch.empty(0, 1), torch.empty(out_features, 0))

    @classmethod
    def zero(cls, in_features: int, out_features: int) -> Triplets:
        """Rank 1 and an update of zero."""
        return cls(torch.zeros(1, in_features), torch.ones(1, 1), torch.zeros(out_features, 1))

    @property
    def rank(self) -> int:
        """R; 0 if everything was pruned."""
        return self.E.shape[0]

    def product(self) -> Tensor:
        """``B (A * E)``: the update of the weight ``(out, in)`` before scaling."""
        return self.B @ (self.A * self.E)


Draw = Callable[[int, int, int, torch.Generator], Triplets]
"""Draws the initial triplets from rank, in, out and a generator; their update is zero."""


def draw_normal(rank: int, in_features: int, out_features: int, generator: torch.Generator) -> Triplets:
    """A and B from N(0, 0.02), E zero: the initialisation of AdaLoRA in its authors' code and PEFT."""
    return Triplets(
        A=torch.randn(rank, in_features, generator=generator) * 0.02,
        E=torch.zeros(rank, 1),
        B=torch.randn(out_features, rank, generator=generator) * 0.02,
    )


def draw_lora(rank: int, in_features: int, out_features: int, generator: torch.Generator) -> Triplets:
    """A Kaiming-uniform, B zero, E one: the initialisation of LoRA in its authors' code and PEFT (Hu et al., 2021).

    AdaLoRA can start this way too: it is then LoRA with a gain for every triplet.
    """
    A = torch.empty(rank, in_features)
    # PyTorch's initialisation of a linear layer: Kaiming with slope sqrt(5) gives this bound
    A.uniform_(-1 / math.sqrt(in_features), 1 / math.sqrt(in_features), generator=generator)
    return Triplets(A=A, E=torch.ones(rank, 1), B=torch.zeros(out_features, rank))
