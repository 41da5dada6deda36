"""The layout of a packed batch: where each text begins, which texts form a block of attention, where tokens go.

oneDNN compiles a kernel for every new shape of a matrix product, which takes longer than the product itself
(`docs/speed.md`). Batches without padding have new shapes at every step, so shapes are rounded to a few: the number of
tokens to `TOKEN_MULTIPLE`, the length of a block to `LENGTH_MULTIPLE`, the texts of a block to a power of two.

Shape letters: T packed tokens, N heads, G texts of a block, L tokens of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from leantune.packing.batch import PackedBatch
from leantune.packing.positions import DistanceBias, RelativePositions, Rotary, Rotation

TOKEN_MULTIPLE = 64
"""Multiple of rows in the encoder's products on the CPU; spare rows belong to no text."""
LENGTH_MULTIPLE = 16
"""Multiple of L of a block; also the width of a vector register, and of an AMX tile."""
BLOCK_TEXTS = (64, 32, 16, 8, 4, 2, 1)
"""Possible values of G of a block."""
BLOCK_OVERHEAD = 5_000
"""Cost of one more block, in scores of one head that take as long (measured)."""


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Neighbouring texts of similar length, computed as one ``(G, L)`` block."""

    lengths: tuple[int, ...]

    @property
    def size(self) -> int:
        """G."""
        return len(self.lengths)

    @property
    def width(self) -> int:
        """L: the length of the longest text, plus some padding."""
        return block_width(self.lengths[-1])


@dataclass(frozen=True, slots=True)
class Window:
    """The tokens of its text that a token attends to, besides itself: how many on each side; None: all."""

    before: int | None = None
    after: int | None = None

    @classmethod
    def around(cls, reach: int) -> Window:
        """As many on both sides."""
        return cls(reach, reach)

    @property
    def is_whole(self) -> bool:
        """Whether a token attends to its whole text."""
        return self.before is None and self.after is None

    def covers(self, length: int) -> bool:
        """Whether every token of a text of ``length`` tokens attends to all others."""
        return all(each is None or each >= length - 1 for each in (self.before, self.after))

    def reversed(self) -> Window:
        """Return the window that selects these tokens when the text is read from its end."""
        return Window(self.after, self.before)

    def sees(self, length: int, device: torch.device | None = None) -> Tensor:
        """Whether a query sees a key in a text of ``length`` tokens: ``(L, L)`` bool."""
        place = torch.arange(length, device=device)
        ahead = place - place[:, None]  # key position less query position
        before, after = (length if each is None else each for each in (self.before, self.after))
        return (ahead >= -before) & (ahead <= after)


WHOLE_TEXT = Window()


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """Position of each head of each token when the blocks ``(G, N, L)`` of all groups are concatenated.

    One gather brings a whole batch into blocks, another brings it back.
    """

    to_blocks: Tensor
    """``(rows of all blocks,)`` int64 into ``(T * N)``; padding repeats its text's first token."""
    padding: Tensor
    """Block rows that are padding, int64."""
    to_packed: Tensor
    """``(tokens of texts * N,)`` int64 into the block rows."""


@dataclass(frozen=True, slots=True)
class GroupTokens:
    """Position of each token of one group in a block ``(G, L)``."""

    shape: tuple[int, int]
    """G, L."""
    first: int
    """Index of the first token in the batch; those of a group are neighbours."""
    to_block: Tensor
    """``(G * L,)`` int64 into the tokens of the batch; padding repeats its text's first token."""
    to_packed: Tensor | None
    """``(tokens,)`` int64 into the block; None without padding."""
    padding: Tensor | None
    """Positions in the block that are padding, int64; None without padding."""


@dataclass(frozen=True, slots=True)
class PaddedLayout:
    """Position of each token in one block ``(S, L)`` of all texts, padded to the longest."""

    to_block: Tensor
    """``(S * L,)`` int64 into the tokens; padding repeats its text's first token."""
    to_packed: Tensor
    """``(T,)`` int64 into the block."""
    is_real: Tensor
    """``(S, L)`` bool: whether a position holds a token instead of padding."""


@dataclass(slots=True)
class Layout:
    """Layout of a batch, made once and used by every layer."""

    lengths: tuple[int, ...]
    """Tokens of each text, ascending."""
    cu_seqlens: Tensor
    """``(S + 1,)`` int32: text i has the tokens ``cu_seqlens[i]:cu_seqlens[i + 1]``."""
    position_ids: Tensor
    """``(T,)`` int64, with spare tokens after those of the texts."""
    distance_bias: DistanceBias | None = None
    """Bias that all layers add to attention scores; its reach is at least `block_width` of the longest text."""
    relative: RelativePositions | None = None
    """Relative embeddings for disentangled attention; they reach as far as ``distance_bias`` does."""
    _rotations: dict[tuple[Rotary, int], Rotation] = field(default_factory=dict)
    _blocks: dict[int, BlockLayout] = field(default_factory=dict)
    _tokens: tuple[GroupTokens, ...] | None = None
    _padded: PaddedLayout | None = None
    _hidden_keys: dict[tuple[AttentionGroup, Window, torch.dtype], Tensor | None] = field(
        default_factory=dict
    )

    @classmethod
    def of(cls, batch: PackedBatch) -> Layout:
        """The layout of ``batch``; what each kind of attention needs is computed on first use."""
        return cls(batch.lengths, batch.cu_seqlens, batch.position_ids)

    @property
    def groups(self) -> tuple[AttentionGroup, ...]:
        """Groups of texts of similar length on the CPU; one group of all texts elsewhere, where calls cost more."""
        if self.cu_seqlens.device.type != "cpu":
            return (AttentionGroup(self.lengths),)
        return group_by_length(self.lengths)

    @property
    def tokens_of_groups(self) -> tuple[GroupTokens, ...]:
        """Position of each token in the block of its group, on the device of the batch."""
        if self._tokens is None:
            self._tokens = tuple(_tokens_of_groups(self.groups, self.cu_seqlens.device))
        return self._tokens

    @property
    def max_seqlen(self) -> int:
        """Tokens of the longest text."""
        return self.lengths[-1]

    @property
    def num_tokens(self) -> int:
        """Number of tokens in texts; a batch may have spare ones after them."""
        return sum(self.lengths)

    @property
    def first_tokens(self) -> Tensor:
        """``(S,)`` int64: index of the first token of each text."""
        return self.cu_seqlens[:-1].long()

    def rotation(self, rotary: Rotary, head_width: int) -> Rotation:
        """The rotary embedding of all tokens for heads of this width."""
        key = rotary, head_width
        if key not in self._rotations:
            self._rotations[key] = Rotation.of(self.position_ids, rotary, head_width)
        return self._rotations[key]

    def blocks(self, num_heads: int) -> BlockLayout:
        """The block layout for this number of heads."""
        if num_heads not in self._blocks:
            self._blocks[num_heads] = _block_layout(self.groups, num_heads)
        return self._blocks[num_heads]

    def hidden_keys(self, group: AttentionGroup, window: Window, dtype: torch.dtype) -> Tensor | None:
        """Minus infinity at keys that a query must not see, else 0: ``(G, 1 or L, L)``; None if it may see all."""
        key = group, window, dtype
        if key not in self._hidden_keys:
            hidden = _hidden_keys(*key)
            self._hidden_keys[key] = None if hidden is None else hidden.to(self.cu_seqlens.device)
        return self._hidden_keys[key]

    def padded(self) -> PaddedLayout:
        """The layout of one padded block, on the device of the batch."""
        if self._padded is None:
            self._padded = _padded_layout(self.lengths, self.cu_seqlens.device)
        return self._padded


def block_width(length: int) -> int:
    """``length`` rounded up to `LENGTH_MULTIPLE`."""
    return length + -length % LENGTH_MULTIPLE


@lru_cache(maxsize=4096)
def group_by_length(lengths: tuple[int, ...]) -> tuple[AttentionGroup, ...]:
    """Cut ascending ``lengths`` into the groups that cost least: scores, padding included, and calls.

    >>> [group.lengths for group in group_by_length((60, 61, 62, 500))]
    [(60, 61), (62,), (500,)]
    """
    count = len(lengths)
    cheapest = [0.0] * (count + 1)
    chosen = [1] * count
    for first in reversed(range(count)):
        costs = {
            size: size * block_width(lengths[first + size - 1]) ** 2 + cheapest[first + size]
            for size in BLOCK_TEXTS
            if first + size <= count
        }
        chosen[first] = min(costs, key=lambda size: costs[size])
        cheapest[first] = costs[chosen[first]] + BLOCK_OVERHEAD
    groups, first = [], 0
    while first < count:
        groups.append(AttentionGroup(lengths[first : first + chosen[first]]))
        first += chosen[first]
    return tuple(groups)


def _padded_layout(lengths: tuple[int, ...], device: torch.device) -> PaddedLayout:
    """Computed on the host, which knows the lengths: a device would require a synchronisation."""
    sizes, place = torch.tensor(lengths), torch.arange(lengths[-1])
    is_real = place < sizes[:, None]
    starts = sizes.cumsum(0) - sizes
    to_block = (starts[:, None] + torch.where(is_real, place, 0)).flatten()
    to_packed = is_real.flatten().nonzero().flatten()
    return PaddedLayout(*(x.to(device, non_blocking=True) for x in (to_block, to_packed, is_real)))


def _tokens_of_groups(groups: tuple[AttentionGroup, ...], device: torch.device) -> Iterator[GroupTokens]:
    first = 0
    for group in groups:
        sizes, place = torch.tensor(group.lengths), torch.arange(group.width)
        is_real = place < sizes[:, None]
        starts = first + sizes.cumsum(0) - sizes
        to_block = (starts[:, None] + torch.where(is_real, place, 0)).flatten()
        real, padding = (each.flatten().nonzero().flatten().to(device) for each in (is_real, ~is_real))
        has_padding = len(padding) > 0
        yield GroupTokens(
            (group.size, group.width),
            first,
            to_block.to(device),
            real if has_padding else None,
            padding if has_padding else None,
        )
        first += sum(group.lengths)


def _hidden_keys(group: AttentionGroup, window: Window, dtype: torch.dtype) -> Tensor | None:
    sizes, place = torch.tensor(group.lengths)[:, None], torch.arange(group.width)
    hidden = None
    if group.lengths[0] != group.width:
        hidden = (place >= sizes)[:, None, :]
    if not window.covers(group.width):
        far = ~window.sees(group.width)[None]
        # a padding query far from every real key would have no key at all and give NaN
        far = far & (place < sizes)[:, :, None]
        hidden = far if hidden is None else hidden | far
    return None if hidden is None else torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)


def _block_layout(groups: tuple[AttentionGroup, ...], num_heads: int) -> BlockLayout:
    heads = torch.arange(num_heads)
    to_blocks, is_padding, first = [], [], 0
    for group in groups:
        sizes = torch.tensor(group.lengths)
        starts = first + sizes.cumsum(0) - sizes
        place = torch.arange(group.width)
        empty = place >= sizes[:, None]  # (G, L)
        token = starts[:, None] + place.masked_fill(empty, 0)
        to_blocks.append((token[:, None] * num_heads + heads[:, None]).flatten())  # (G, N, L)
        is_padding.append(empty[:, None].expand(-1, num_heads, -1).flatten())
        first += sum(group.lengths)
    source, empty = torch.cat(to_blocks), torch.cat(is_padding)
    real = (~empty).nonzero().flatten()
    to_packed = torch.empty(len(real), dtype=torch.int64)
    to_packed[source[real]] = real
    return BlockLayout(source, empty.nonzero().flatten(), to_packed)
