"""Attention scores that depend on how far apart query and key are, as MPNet's do.

N heads, L tokens of a block's rows, R reach.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class DistanceBias:
    """What each head adds to the scaled score of a query and a key; frozen, so it gets no gradient."""

    by_distance: Tensor
    """``(N, 2 R - 1)`` fp32, contiguous: of a query that stands 1 - R to R - 1 tokens behind the key."""
    _blocks: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict)

    def block(self, length: int, dtype: torch.dtype) -> Tensor:
        """For each query and key of a text of ``length``, at most R: ``(N, L, L)``."""
        if (length, dtype) not in self._blocks:
            place = torch.arange(length, device=self.by_distance.device)
            reach = (self.by_distance.shape[1] + 1) // 2
            index = place[:, None] - place + reach - 1
            self._blocks[length, dtype] = self.by_distance[:, index].to(dtype)
        return self._blocks[length, dtype]
