"""LayerNorm(dropout(x + bias) + residual), one pass each way, whose mask is drawn inside (`rows.c`): torch makes
four passes and a mask, and four more back.

Shape letters: T rows, D width.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from leantune.kernels.native.library import call, mirrors
from leantune.kernels.native.mask import Mask, mask_of
from leantune.packing.dropout import LEVELS, PooledDropout

WIDTH_MULTIPLE = 32
"""D: the kernel takes the two halves of a random dword for two registers of columns."""


@mirrors("norm")
class Norm(ctypes.Structure):
    """``norm`` of ``csrc/kernels.h``."""

    _fields_ = (("gamma", ctypes.c_void_p), ("beta", ctypes.c_void_p), ("epsilon", ctypes.c_float))

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> Norm:
        """Pointers into the parameters of ``norm``."""
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
    """Stored for the backward pass: the sum before the norm, and two numbers a row."""

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
    """Over D, frozen."""
    bias: Tensor | None
    """``(D,)``; None: none."""
    mask: Mask
    """Of dropout, the same both ways."""

    @classmethod
    def of(cls, norm: nn.LayerNorm, bias: Tensor | None, dropout: PooledDropout) -> NormOfSum:
        """With a new mask, where ``dropout`` drops."""
        return cls(norm, bias, mask_of(dropout))

    def of_sum(self, x: Tensor, residual: Tensor) -> Tensor:
        """``(..., D)`` each; nothing is kept."""
        out, arguments = torch.empty_like(x), self._of(x)
        arguments.x, arguments.residual, arguments.out = x.data_ptr(), residual.data_ptr(), out.data_ptr()
        call("residual_forward", arguments)
        return out

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, and for `backward` the sum ``(..., D)`` and two fp32 numbers a row."""
        out, total, arguments = torch.empty_like(x), torch.empty_like(x), self._of(x)
        stats = torch.empty(arguments.num_rows, 2)
        arguments.x, arguments.residual, arguments.out = x.data_ptr(), residual.data_ptr(), out.data_ptr()
        arguments.sum, arguments.stats = total.data_ptr(), stats.data_ptr()
        call("residual_forward", arguments)
        return out, total, stats

    def backward(self, total: Tensor, stats: Tensor, grad_out: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of x and of the residual; without dropout they are one tensor."""
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
        """What the kernels are given, but for where anything is."""
        return NormArguments(
            bias=None if self.bias is None else self.bias.data_ptr(),
            norm=Norm.of(self.norm),
            num_rows=num_rows,
            width=width,
            mask=self.mask,
            num_threads=torch.get_num_threads(),
        )
