"""Embeddings of tokens: three rows, their sum and its LayerNorm in one pass (`embedding.c`).

T packed tokens, D width of the embeddings.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from leantune.packing.native.library import call, learns, mirrors, serves
from leantune.packing.native.norm import Norm, is_frozen_norm

WIDTH_MULTIPLE = 16
"""D: columns that the kernel takes at once."""


@mirrors("embedding")
class _Arguments(ctypes.Structure):
    """``embedding`` of ``csrc/kernels.h``, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("word_ids", "type_ids", "position_ids")),
        *((name, ctypes.c_void_p) for name in ("words", "types", "positions")),
        ("norm", Norm),
        *((name, ctypes.c_int64) for name in ("num_rows", "width")),
        ("out", ctypes.c_void_p),
        ("num_threads", ctypes.c_int64),
    )


class EmbeddingBlock(nn.Module):
    """Drop-in for transformers' ``BertEmbeddings`` and its like, with the same children.

    Args:
        word_embeddings, token_type_embeddings, position_embeddings: to D.
        norm: over D, of their sum.
        dropout: of what it gives.
    """

    def __init__(
        self,
        word_embeddings: nn.Embedding,
        token_type_embeddings: nn.Embedding,
        position_embeddings: nn.Embedding,
        norm: nn.LayerNorm,
        dropout: nn.Module,
    ) -> None:
        super().__init__()
        self.word_embeddings, self.position_embeddings = word_embeddings, position_embeddings
        self.token_type_embeddings = token_type_embeddings
        self.LayerNorm, self.dropout = norm, dropout

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Three times ``(1, T)`` int64 to ``(1, T, D)``."""
        tables = [self.word_embeddings, self.token_type_embeddings, self.position_embeddings]
        ids = [input_ids, token_type_ids, position_ids]
        if self._is_native() and all(map(_are_rows_of, ids, tables)):
            normed = _forward(ids, [table.weight for table in tables], self.LayerNorm)
        else:
            word, token_type, position = (table(each) for table, each in zip(tables, ids, strict=True))
            normed = self.LayerNorm(word + token_type + position)
        dropped: Tensor = self.dropout(normed)
        return dropped

    def _is_native(self) -> bool:
        words, norm = self.word_embeddings.weight, self.LayerNorm
        others = (self.token_type_embeddings.weight, self.position_embeddings.weight)
        return (
            serves(words)
            and words.shape[1] % WIDTH_MULTIPLE == 0
            and not any(learns(weight) for weight in (words, *others))
            and all(weight.dtype == words.dtype for weight in others)
            and is_frozen_norm(norm, words)
        )


def _are_rows_of(ids: Tensor, table: nn.Embedding) -> bool:
    """Whether ``table`` has them all: torch says what is wrong with others, the kernel would read elsewhere."""
    lowest, highest = ids.aminmax()
    return int(lowest) >= 0 and int(highest) < len(table.weight)


def _forward(ids: list[Tensor], tables: list[Tensor], norm: nn.LayerNorm) -> Tensor:
    ids = [each.contiguous() for each in ids]
    words, types, positions = (table.data_ptr() for table in tables)
    word_ids, type_ids, position_ids = (each.data_ptr() for each in ids)
    out = torch.empty(*ids[0].shape, tables[0].shape[1], dtype=tables[0].dtype)
    arguments = _Arguments(
        word_ids=word_ids,
        type_ids=type_ids,
        position_ids=position_ids,
        words=words,
        types=types,
        positions=positions,
        norm=Norm.of(norm),
        num_rows=ids[0].numel(),
        width=out.shape[-1],
        out=out.data_ptr(),
        num_threads=torch.get_num_threads(),
    )
    call("embedding_forward", arguments)
    return out


def replace_embeddings(model: nn.Module, name: str) -> None:
    """Put `EmbeddingBlock` where ``model`` has the module ``name``; its dropout is pooled already."""
    block: Any = model.get_submodule(name)
    children = dict(block.named_children())
    norm = children.pop("LayerNorm")
    model.set_submodule(name, EmbeddingBlock(**children, norm=norm))
