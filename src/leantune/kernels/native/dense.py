"""Linear layers in bf16 without gradients, fused with what follows them, some hundred rows at a time (`dense.c`).

In prediction and evaluation nothing between the layers of a feed-forward block has to be kept: it stays in the cache.
On processors with AMX this is faster than torch's products with passes between them; elsewhere torch computes.

Shape letters: T tokens, D width of the input, F width of the output.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leantune.kernels.interface import Linear
from leantune.kernels.native.library import call, kernels, mirrors
from leantune.kernels.native.multi_lora import updates_of
from leantune.kernels.native.rows import Norm
from leantune.kernels.native.weights import LayerArgument, PackedWeight

WIDTH_MULTIPLE = 32
"""D and F must be multiples of this, the side of a block of products."""

_Pointer, _Count = ctypes.c_void_p, ctypes.c_int64


@mirrors("dense")
class DenseArguments(ctypes.Structure):
    """``dense`` of ``csrc/kernels.h``."""

    _fields_ = (
        ("x", _Pointer),
        ("T", _Count),
        *((name, LayerArgument) for name in ("before", "last")),
        ("residual", _Pointer),
        ("norm", Norm),
        ("out", _Pointer),
        ("num_threads", _Count),
    )


def is_fast() -> bool:
    """Whether these products are faster than torch's on this processor."""
    library = kernels().library
    return library is not None and library.blocks_are_fast()


@dataclass(frozen=True, slots=True)
class Dense:
    """Layers with the same input fused into one, with the updates of each text's adapter."""

    weight: PackedWeight
    layers: Sequence[Linear] = ()
    """The layers that ``weight`` was packed from."""


def dense(x_TD: Tensor, layer: Dense) -> Tensor:
    """``W x + b``: ``(T, D)`` to ``(T, F)``."""
    return _forward(x_TD, layer, None, None, None)


def dense_and_norm(x_TD: Tensor, layer: Dense, residual_TF: Tensor, norm: nn.LayerNorm) -> Tensor:
    """``LayerNorm(W x + b + residual)``: ``(T, D)`` and ``(T, F)`` to ``(T, F)``."""
    return _forward(x_TD, layer, None, residual_TF, norm)


def feed_forward(x_TD: Tensor, up: Dense, down: Dense, norm: nn.LayerNorm) -> Tensor:
    """``LayerNorm(down(GELU(up(x))) + x)`` with the exact GELU: ``(T, D)`` to ``(T, D)``."""
    return _forward(x_TD, down, up, x_TD, norm)


def _forward(
    x: Tensor, last: Dense, before: Dense | None, residual: Tensor | None, norm: nn.LayerNorm | None
) -> Tensor:
    x, residual = x.contiguous(), None if residual is None else residual.contiguous()
    (num_columns, _), width = last.weight.bf16.shape, (before or last).weight.bf16.shape[1]
    assert x.shape[-1] == width, f"{x.shape[-1]} columns for a layer of {width}"
    out = x.new_empty(*x.shape[:-1], num_columns)
    num_rows = out.numel() // num_columns
    updates = [None if each is None else updates_of(each.layers, num_rows) for each in (before, last)]
    arguments = DenseArguments(
        x=x.data_ptr(),
        T=num_rows,
        before=LayerArgument() if before is None else before.weight.bf16.as_argument(updates[0]),
        last=last.weight.bf16.as_argument(updates[1]),
        residual=None if residual is None else residual.data_ptr(),
        norm=Norm() if norm is None else Norm.of(norm),
        out=out.data_ptr(),
        num_threads=torch.get_num_threads(),
    )
    call("dense_forward", arguments)
    return out
