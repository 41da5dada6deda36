"""Linear layers in bf16 without a gradient, and what comes behind them, some hundred rows at a time (`dense.c`).

In prediction and evaluation nothing between the layers of a feed-forward block has to be kept: it stays in the cache.
Where the processor has AMX this is faster than torch's products with passes between them; elsewhere torch computes.

Shape letters: T tokens, D width of the input, F of the output.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from leantune.kernels.native.library import call, kernels, mirrors
from leantune.kernels.native.rows import Norm
from leantune.kernels.native.weights import Bf16Matrix, LayerArgument, PackedWeight

WIDTH_MULTIPLE = 32
"""D and F: the sides of a block of products."""

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


def dense(x_TD: Tensor, weight: PackedWeight) -> Tensor:
    """``W x + b``: ``(T, D)`` to ``(T, F)``."""
    return _forward(x_TD, weight.bf16, None, None, None)


def dense_and_norm(x_TD: Tensor, weight: PackedWeight, residual_TF: Tensor, norm: nn.LayerNorm) -> Tensor:
    """``LayerNorm(W x + b + residual)``: ``(T, D)`` and ``(T, F)`` to ``(T, F)``."""
    return _forward(x_TD, weight.bf16, None, residual_TF, norm)


def feed_forward(x_TD: Tensor, up: PackedWeight, down: PackedWeight, norm: nn.LayerNorm) -> Tensor:
    """``LayerNorm(down(GELU(up(x))) + x)``, the exact GELU: ``(T, D)`` to ``(T, D)``."""
    return _forward(x_TD, down.bf16, up.bf16, x_TD, norm)


def _forward(
    x: Tensor, last: Bf16Matrix, before: Bf16Matrix | None, residual: Tensor | None, norm: nn.LayerNorm | None
) -> Tensor:
    x, residual = x.contiguous(), None if residual is None else residual.contiguous()
    layer, width = last.as_argument(), (before or last).shape[1]
    assert x.shape[-1] == width, f"{x.shape[-1]} columns for a layer of {width}"
    out = x.new_empty(*x.shape[:-1], layer.rows)
    arguments = DenseArguments(
        x=x.data_ptr(),
        T=x.numel() // x.shape[-1],
        before=LayerArgument() if before is None else before.as_argument(),
        last=layer,
        residual=None if residual is None else residual.data_ptr(),
        norm=Norm() if norm is None else Norm.of(norm),
        out=out.data_ptr(),
        num_threads=torch.get_num_threads(),
    )
    call("dense_forward", arguments)
    return out
