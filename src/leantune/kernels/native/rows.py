"""Row-wise operations (`rows.c`), each in one pass: embeddings, norms of sums, and GELU.

Torch makes a pass for each operation and stores dropout masks. Here the kernels draw a mask from the same key in both
directions.

T packed tokens, D width, F width of the feed-forward layer.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from leantune.kernels.interface import EmbeddingsLike
from leantune.kernels.native.library import call, mirrors
from leantune.packing.dropout import LEVELS, PooledDropout

WIDTH_MULTIPLE = 32
"""D must be a multiple of this: the norm kernel uses both halves of a random dword for two registers of columns.

Other kernels need a multiple of 16."""

Key = tuple[int, int]


@mirrors("dropout_mask")
class Mask(ctypes.Structure):
    """``dropout_mask`` of ``csrc/kernels.h``."""

    _fields_ = (("kept_levels", ctypes.c_uint32), ("key", ctypes.c_uint32 * 2))

    @classmethod
    def of(cls, p: float, key: Key) -> Mask:
        """The mask of dropout ``p`` drawn from ``key``; p is 0 for no dropout."""
        return cls(kept_levels(p), key)


def mask_of(dropout: nn.Module | None) -> Mask:
    """A new mask if ``dropout`` is active; otherwise one that keeps everything."""
    if dropout is None or not dropout.training:
        return Mask.of(0.0, (0, 0))
    assert isinstance(dropout, PooledDropout)
    return Mask.of(dropout.p, dropout.stream.key() if dropout.p else (0, 0))


def kept_levels(p: float) -> int:
    """The random numbers below this keep their element: the share nearest to ``1 - p``.

    The kernels scale kept elements by an fp32 number of their own, which makes the expectation exact.
    """
    return max(1, round(LEVELS * (1 - p)))


@mirrors("norm")
class Norm(ctypes.Structure):
    """``norm`` of ``csrc/kernels.h``."""

    _fields_ = (("gamma", ctypes.c_void_p), ("beta", ctypes.c_void_p), ("epsilon", ctypes.c_float))

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> Norm:
        """Pointers to the parameters of ``norm``."""
        return cls(norm.weight.data_ptr(), norm.bias.data_ptr(), norm.eps)


@mirrors("residual")
class NormArguments(ctypes.Structure):
    """``residual`` of ``csrc/kernels.h``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "residual", "bias")),
        ("norm", Norm),
        *((name, ctypes.c_int64) for name in ("num_rows", "width")),
        ("mask", Mask),
        *((name, ctypes.c_void_p) for name in ("out", "sum", "stats", "grad_out", "grad_x", "grad_residual")),
        ("num_threads", ctypes.c_int64),
    )


def add_and_norm(
    x_TD: Tensor, bias: Tensor | None, dropout: PooledDropout, residual_TD: Tensor, norm: nn.LayerNorm
) -> Tensor:
    """``LayerNorm(dropout(x + bias) + residual)`` of ``(T, D)`` each."""
    how = NormOfSum.of(norm, bias, dropout)
    out: Tensor = _NormOfSum.apply(x_TD.contiguous(), residual_TD.contiguous(), how)  # type: ignore[no-untyped-call]
    return out


class _NormOfSum(torch.autograd.Function):
    """Autograd function; for the backward pass it stores the sum before the norm, and two numbers per row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, how: NormOfSum) -> Tensor:
        if not any(ctx.needs_input_grad):
            return how.of_sum(x, residual)
        out, total, stats = how.forward(x, residual)
        ctx.save_for_backward(total, stats)
        ctx.how = how
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.how.backward(*ctx.saved_tensors, grad_outputs[0]), None


@dataclass(frozen=True, slots=True)
class NormOfSum:
    """LayerNorm(dropout(x + bias) + residual) of contiguous bf16."""

    norm: nn.LayerNorm
    """Frozen norm over D."""
    bias: Tensor | None
    """``(D,)``; None: no bias."""
    mask: Mask
    """The dropout mask, the same in both directions."""

    @classmethod
    def of(cls, norm: nn.LayerNorm, bias: Tensor | None, dropout: PooledDropout) -> NormOfSum:
        """The norm with a new mask if ``dropout`` is active."""
        return cls(norm, bias, mask_of(dropout))

    def of_sum(self, x: Tensor, residual: Tensor) -> Tensor:
        """Compute the norm of the sum, ``(..., D)`` each, keeping nothing."""
        out, arguments = torch.empty_like(x), self._of(x)
        arguments.x, arguments.residual, arguments.out = x.data_ptr(), residual.data_ptr(), out.data_ptr()
        call("residual_forward", arguments)
        return out

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the norm of the sum, and for `backward` the sum ``(..., D)`` and two fp32 numbers per row."""
        out, total, arguments = torch.empty_like(x), torch.empty_like(x), self._of(x)
        stats = torch.empty(arguments.num_rows, 2)
        arguments.x, arguments.residual, arguments.out = x.data_ptr(), residual.data_ptr(), out.data_ptr()
        arguments.sum, arguments.stats = total.data_ptr(), stats.data_ptr()
        call("residual_forward", arguments)
        return out, total, stats

    def backward(self, total: Tensor, stats: Tensor, grad_out: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of x and of the residual; without dropout both are the same tensor."""
        grad_out, arguments = grad_out.contiguous(), self._of(total)
        grad_residual = torch.empty_like(total)
        grad_x = torch.empty_like(total) if self.mask.kept_levels < LEVELS else grad_residual
        arguments.sum, arguments.stats = total.data_ptr(), stats.data_ptr()
        arguments.grad_out = grad_out.data_ptr()
        arguments.grad_x, arguments.grad_residual = grad_x.data_ptr(), grad_residual.data_ptr()
        call("residual_backward", arguments)
        return grad_x, grad_residual

    def _of(self, x: Tensor) -> NormArguments:
        return self.arguments(x.numel() // x.shape[-1], x.shape[-1])

    def arguments(self, num_rows: int, width: int) -> NormArguments:
        """Arguments for the kernels, without the addresses of tensors."""
        return NormArguments(
            bias=None if self.bias is None else self.bias.data_ptr(),
            norm=Norm.of(self.norm),
            num_rows=num_rows,
            width=width,
            mask=self.mask,
            num_threads=torch.get_num_threads(),
        )


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
    assert isinstance(embeddings.norm, nn.LayerNorm)
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
    """The rows of ``table``, after checking that all ``ids`` exist: the kernel does not check."""
    lowest, highest = (int(each) for each in ids.aminmax())
    if lowest < 0 or highest >= len(table.weight):
        wrong = lowest if lowest < 0 else highest
        raise IndexError(f"index {wrong} is out of range of an embedding with {len(table.weight)} rows")
    return table.weight


@mirrors("gelu")
class GeluArguments(ctypes.Structure):
    """``gelu`` of ``csrc/kernels.h``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "bias")),
        *((name, ctypes.c_int64) for name in ("num_rows", "width")),
        *((name, ctypes.c_void_p) for name in ("out", "grad_out", "grad_x")),
        ("num_threads", ctypes.c_int64),
    )


def gelu(x_TF: Tensor, bias_F: Tensor | None = None) -> Tensor:
    """Exact GELU (with erf) of ``x + bias``, of bf16 ``(T, F)``; the bias gets no gradient."""
    out: Tensor = _Gelu.apply(x_TF.contiguous(), bias_F)  # type: ignore[no-untyped-call]
    return out


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, bias)
        out, arguments = torch.empty_like(x), _gelu_arguments(x, bias)
        arguments.out = out.data_ptr()
        call("gelu_forward", arguments)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        x, bias = ctx.saved_tensors
        grad_out, grad_x, arguments = (
            grad_outputs[0].contiguous(),
            torch.empty_like(x),
            _gelu_arguments(x, bias),
        )
        arguments.grad_out, arguments.grad_x = grad_out.data_ptr(), grad_x.data_ptr()
        call("gelu_backward", arguments)
        return grad_x, None


def _gelu_arguments(x: Tensor, bias: Tensor | None) -> GeluArguments:
    return GeluArguments(
        x=x.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        num_rows=x.numel() // x.shape[-1],
        width=x.shape[-1],
        num_threads=torch.get_num_threads(),
    )
