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
class RelativePositions:
    """Embeddings of the positions of keys relative to queries (He et al., 2021, DeBERTa, arXiv 2006.03654, eq. 3)."""

    table: Tensor
    """``(R, D)`` embeddings of the relative positions that occur in a batch."""
    row_of: Tensor
    """``(2 * reach,)`` int64: row of each distance, query position less key position, from 1 - reach to reach."""
    _rows: dict[tuple[int, bool], Tensor] = field(default_factory=dict)

    def rows(self, width: int, *, of_keys: bool) -> Tensor:
        """Rows ``(2 width,)`` of the table for a block of texts of ``width`` tokens, at most ``reach``.

        With ``of_keys``, entry t is for keys t - width + 1 tokens after the query, otherwise for queries as far after
        the key. The last entry belongs to no pair.
        """
        if (width, of_keys) not in self._rows:
            reach = len(self.row_of) // 2
            rows = self.row_of[reach - width : reach + width]
            if of_keys:
                rows = torch.cat([rows[:-1].flip(0), rows[-1:]])
            self._rows[width, of_keys] = rows
        return self._rows[width, of_keys]


def log_bucket(distance: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """The signed bucket of each distance in DeBERTa-v2 (the log-bucket of transformers, in fp32 as there).

    Distances up to half of ``num_buckets`` have a bucket each; beyond, their width grows with the logarithm.

    Args:
        distance: int64, query position less key position.
        num_buckets: number of buckets for one direction.
        max_distance: distance whose bucket is the last.
    """
    middle = num_buckets // 2
    size = distance.abs()
    far = size.clamp(min=middle).float() / middle
    scale = torch.log(torch.tensor((max_distance - 1) / middle, device=distance.device))
    by_logarithm = torch.ceil(torch.log(far) / scale * (middle - 1)).long() + middle
    return torch.where(size <= middle, distance, by_logarithm * distance.sign())


@dataclass(frozen=True, slots=True)
class Rotary:
    """The frequencies of a rotary position embedding (Su et al., 2021, RoFormer, arXiv 2104.09864, section 3.2.2)."""

    base: float
    """Theta of the paper."""
    factor: float = 1.0
    """Divides all frequencies, or with ``kept`` the low ones."""
    kept: KeptFrequencies | None = None

    def frequencies(self, head_width: int, device: torch.device) -> Tensor:
        """Radians per position: ``(H / 2,)`` fp32."""
        powers = torch.arange(0, head_width, 2, dtype=torch.float32, device=device) / head_width
        plain = 1.0 / self.base**powers
        return plain / self.factor if self.kept is None else self.kept.scaled(plain, self.factor)


@dataclass(frozen=True, slots=True)
class KeptFrequencies:
    """The frequencies that Llama 3.1 keeps while it divides the others (``rope_type`` "llama3" of transformers).

    They are given as rotations within the length of pretraining: those above ``high`` are kept, those below ``low``
    are divided, and between them the share of the kept frequency grows linearly.
    """

    low: float
    high: float
    length: int
    """Longest text of pretraining, in tokens."""

    def scaled(self, plain: Tensor, factor: float) -> Tensor:
        """The frequencies after scaling, from those before."""
        rotations = self.length * plain / (2 * math.pi)
        share = ((rotations - self.low) / (self.high - self.low)).clamp(0, 1)
        return (1 - share) * plain / factor + share * plain


@dataclass(frozen=True, slots=True)
class Rotation:
    """Rotary position embedding (Su et al., 2021, RoFormer, arXiv 2104.09864, eq. 34) of all tokens of a batch."""

    cos: Tensor
    """``(T, 1, H)`` fp32."""
    sin: Tensor
    """``(T, 1, H)`` fp32."""

    @classmethod
    def of(cls, position_ids: Tensor, rotary: Rotary, head_width: int) -> Rotation:
        """The rotation of tokens at ``position_ids`` ``(T,)``."""
        angles = position_ids[:, None].float() * rotary.frequencies(head_width, position_ids.device)
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return cls(angles.cos(), angles.sin())

    def __call__(self, x_TNH: Tensor) -> Tensor:
        """Rotate heads ``(T, N, H)`` in fp32 and return their dtype; each pair has one value in each half of a head."""
        x = x_TNH.float()
        first, second = x.chunk(2, dim=-1)
        return (x * self.cos + torch.cat([-second, first], dim=-1) * self.sin).to(x_TNH.dtype)
