"""Embeddings of tokens: three rows, their sum and its LayerNorm in one pass (`rows.c`).

T packed tokens, D width of the embeddings.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from leantune.kernels.interface import EmbeddingsLike
from leantune.kernels.native.library import call, mirrors
from leantune.kernels.native.norm import Norm

WIDTH_MULTIPLE = 16
"""D: columns that the kernel takes at once."""


@mirrors("embedding")
class EmbeddingArguments(ctypes.Structure):
    """``embedding`` of ``csrc/kernels.h``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("word_ids", "type_ids", "position_ids")),
        *((name, ctypes.c_void_p) for name in ("words", "types", "positions")),
        ("norm", Norm),
        *((name, ctypes.c_int64) for name in ("num_rows", "width")),
        ("out", ctypes.c_void_p),
        ("num_threads", ctypes.c_int64),
    )


def embed(embeddings: EmbeddingsLike, word_ids: Tensor, type_ids: Tensor, position_ids: Tensor) -> Tensor:
    """``LayerNorm(word + token type + position)`` of ids ``(T,)`` int64, ``(T, D)``.

    Raises:
        IndexError: for an id without a row in its table.
    """
    out = embeddings.word.weight.new_empty(len(word_ids), embeddings.word.embedding_dim)
    arguments = EmbeddingArguments(
        norm=Norm.of(embeddings.norm),
        num_rows=len(word_ids),
        width=out.shape[1],
        out=out.data_ptr(),
        num_threads=torch.get_num_threads(),
    )
    ids = [each.contiguous() for each in (word_ids, type_ids, position_ids)]
    arguments.word_ids, arguments.type_ids, arguments.position_ids = (each.data_ptr() for each in ids)
    arguments.words, arguments.types, arguments.positions = (
        None if table is None else _checked(table, rows).data_ptr()
        for table, rows in zip(
            (embeddings.word, embeddings.token_type, embeddings.position), ids, strict=True
        )
    )
    call("embedding_forward", arguments)
    return out


def _checked(table: nn.Embedding, ids: Tensor) -> Tensor:
    """The rows of ``table``, all of ``ids`` being among them: the kernel would read elsewhere."""
    lowest, highest = (int(each) for each in ids.aminmax())
    if lowest < 0 or highest >= len(table.weight):
        wrong = lowest if lowest < 0 else highest
        raise IndexError(f"index {wrong} is out of range of an embedding with {len(table.weight)} rows")
    return table.weight
