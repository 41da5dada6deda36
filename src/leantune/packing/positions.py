"""Position information in attention besides embeddings: bias by distance, and rotated heads.

T packed tokens, N heads, H head width, L tokens of a block's rows, R reach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class DistanceBias:
    """Bias that each head adds to the scaled score of a query and a key; frozen, so it gets no gradient."""

    by_distance: Tensor
    """``(N, 2 R - 1)`` fp32, contiguous, for queries from 1 - R to R - 1 tokens after the key."""
    _blocks: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict)

    def block(self, length: int, dtype: torch.dtype) -> Tensor:
        """The bias for each query and key of a text of ``length``, at most R: ``(N, L, L)``."""
        if (length, dtype) not in self._blocks:
            place = torch.arange(length, device=self.by_distance.device)
            reach = (self.by_distance.shape[1] + 1) // 2
            index = place[:, None] - place + reach - 1
            self._blocks[length, dtype] = self.by_distance[:, index].to(dtype)
        return self._blocks[length, dtype]


def relative_position_bucket(distance: Tensor, num_buckets: int, max_distance: int = 128) -> Tensor:
    """The bucket of each distance from a query to a key (Raffel et al., 2020, T5, section 2.1, as in MPNet).

    Half of the buckets are for keys that come after the query. In each half, the first buckets hold one distance each,
    and the width of the others grows with the logarithm of the distance up to ``max_distance``.

    Args:
        distance: int64, key position less query position.
        num_buckets: number of buckets for both directions together.
        max_distance: all distances from here on share the last bucket.
    """
    per_side = num_buckets // 2
    is_after = distance > 0
    distance = distance.abs()
    exact = per_side // 2
    by_logarithm = exact + (
        torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (per_side - exact)
    ).to(torch.int64)
    found = torch.where(distance < exact, distance, by_logarithm.clamp(max=per_side - 1))
    return found + is_after * per_side


@dataclass(frozen=True, slots=True)
class Rotation:
    """Rotary position embedding (Su et al., 2021, RoFormer, arXiv 2104.09864, eq. 34) of all tokens of a batch."""

    cos: Tensor
    """``(T, 1, H)`` fp32."""
    sin: Tensor
    """``(T, 1, H)`` fp32."""

    @classmethod
    def of(cls, position_ids: Tensor, base: float, head_width: int) -> Rotation:
        """The rotation of tokens at ``position_ids`` ``(T,)``."""
        powers = torch.arange(0, head_width, 2, dtype=torch.float32, device=position_ids.device) / head_width
        angles = position_ids[:, None].float() * (1.0 / base**powers)
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return cls(angles.cos(), angles.sin())

    def __call__(self, x_TNH: Tensor) -> Tensor:
        """Rotate heads ``(T, N, H)`` in fp32 and return their dtype; each pair has one value in each half of a head."""
        x = x_TNH.float()
        first, second = x.chunk(2, dim=-1)
        return (x * self.cos + torch.cat([-second, first], dim=-1) * self.sin).to(x_TNH.dtype)
