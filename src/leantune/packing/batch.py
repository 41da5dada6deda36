"""Concatenate the texts of a batch into one row of tokens.

T tokens of the batch, S texts, D model width. Texts are sorted by length, so that texts of similar length are
neighbours and attention can take them as one block with little or no padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """One packed batch. All tensors are on one device."""

    input_ids: Tensor
    """``(T,)`` int64."""
    cu_seqlens: Tensor
    """``(S + 1,)`` int32, starts at 0: text i has the tokens ``cu_seqlens[i]:cu_seqlens[i + 1]``."""
    position_ids: Tensor
    """``(T,)`` int64; restarts at the architecture's offset with every text and skips padding tokens."""
    token_type_ids: Tensor
    """``(T,)`` int64, 0 for the first text of a pair and 1 for the second; zeros without pairs."""
    lengths: tuple[int, ...]
    """Tokens of each text, ascending: a copy of ``cu_seqlens`` on the host, so that planning attention needs no
    synchronisation."""
    rows: Tensor
    """``(S,)`` int64: the table row of each text."""
    labels: Tensor | None = None
    """``(S,)`` int64 class ids, or ``(S, C)`` ones and zeros for several labels per text."""

    @property
    def num_seqs(self) -> int:
        """S."""
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.input_ids.shape[0]

    @property
    def max_seqlen(self) -> int:
        """Tokens of the longest text."""
        return self.lengths[-1]

    def to(self, device: torch.device) -> PackedBatch:
        """Move the batch to ``device``; copies from pinned memory do not block."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return PackedBatch(
            input_ids=move(self.input_ids),
            cu_seqlens=move(self.cu_seqlens),
            position_ids=move(self.position_ids),
            token_type_ids=move(self.token_type_ids),
            lengths=self.lengths,
            rows=move(self.rows),
            labels=None if self.labels is None else move(self.labels),
        )


def pack(
    token_lists: list[npt.NDArray[np.int32]],
    rows: npt.NDArray[np.int64],
    *,
    labels: npt.NDArray[np.int64] | None = None,
    second_starts: npt.NDArray[np.int32] | None = None,
    position_offset: int = 0,
) -> PackedBatch:
    """Concatenate texts, shortest first.

    Args:
        token_lists: S arrays of token ids, with special tokens.
        rows: ``(S,)`` table row of each text.
        labels: ``(S,)`` class ids, or ``(S, C)`` ones and zeros.
        second_starts: ``(S,)`` index of the first token of the second text of a pair; None without pairs.
        position_offset: position of the first token. RoBERTa counts from ``pad_token_id + 1``. If a text contains the
            padding token as a word, that token has the position before the first and is not counted.


    >>> batch = pack([np.array([1, 2, 3], np.int32), np.array([4], np.int32)], np.array([0, 1]))
    >>> batch.input_ids.tolist(), batch.cu_seqlens.tolist(), batch.position_ids.tolist()
    ([4, 1, 2, 3], [0, 1, 4], [0, 0, 1, 2])
    """
    lengths = np.fromiter((len(tokens) for tokens in token_lists), dtype=np.int64, count=len(token_lists))
    order = np.argsort(lengths, kind="stable")
    lengths = lengths[order]
    ends = np.cumsum(lengths)
    starts = ends - lengths
    within = np.arange(ends[-1]) - np.repeat(starts, lengths)
    if second_starts is None:
        types = np.zeros(ends[-1], dtype=np.int64)
    else:
        types = (within >= np.repeat(second_starts[order], lengths)).astype(np.int64)
    input_ids = np.concatenate([token_lists[i] for i in order]).astype(np.int64)
    return PackedBatch(
        input_ids=torch.from_numpy(input_ids),
        cu_seqlens=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
        position_ids=torch.from_numpy(_positions(input_ids, within, starts, lengths, position_offset)),
        token_type_ids=torch.from_numpy(types),
        lengths=tuple(lengths.tolist()),
        rows=torch.from_numpy(np.asarray(rows)[order]),
        labels=None if labels is None else torch.from_numpy(np.asarray(labels, dtype=np.int64)[order]),
    )


def _positions(
    input_ids: npt.NDArray[np.int64],
    within: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    offset: int,
) -> npt.NDArray[np.int64]:
    """Positions ``(T,)``, counted within each text like transformers' ``create_position_ids_from_input_ids``."""
    is_padding = input_ids == offset - 1
    if not is_padding.any():
        return within + offset
    before = np.cumsum(is_padding)
    in_text = before - np.repeat(before[starts] - is_padding[starts], lengths)
    return np.where(is_padding, offset - 1, within + offset - in_text)
