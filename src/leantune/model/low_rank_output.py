"""An output layer whose weight ``(C, D)`` is trained as a product of two matrices of low rank.

With many classes the output layer alone can exceed a parameter limit. C classes, D width, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRankProduct(nn.Module):
    """The weight as ``left (C, R) @ right (R, D)``; assigning a weight keeps its best approximation of that rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the weight ``(C, D)``."""
        return left @ right

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two factors of the nearest weight of this rank (Eckart and Young, 1936), equal in norm."""
        left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
        roots = sizes[: self.rank].sqrt()
        return left[:, : self.rank] * roots, roots[:, None] * right[: self.rank]


def factorize(layer: nn.Linear, rank: int) -> None:
    """Train the weight of ``layer`` as a product of this rank from now on."""
    parametrize.register_parametrization(layer, "weight", LowRankProduct(rank))


@torch.no_grad()
def set_weight(layer: nn.Linear, weight: Tensor) -> None:
    """Give ``layer`` this weight ``(C, D)``, or the nearest weight of its rank if it is factorized."""
    if parametrize.is_parametrized(layer, "weight"):
        layer.weight = weight  # goes through `LowRankProduct.right_inverse`
    else:
        layer.weight.copy_(weight)


def effective_parameters(layer: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a module by name, with a factorized weight as one matrix."""
    if not parametrize.is_parametrized(layer):
        return dict(layer.named_parameters())
    own = {name: p for name, p in layer.named_parameters() if not name.startswith("parametrizations.")}
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return {"weight": weight.detach(), **own}
