"""The block behind attention and feed-forward layers: LayerNorm(dropout(dense(x)) + input).

In bf16 on the CPU all but the product is one pass, forward and backward, whose mask is drawn inside
(`residual.c`): torch makes four passes and a mask, and four more back.

D model width.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from leantune.packing.dropout import DropoutStream, PooledDropout
from leantune.packing.native.dense import can_multiply, dense_and_norm
from leantune.packing.native.dropout import LEVELS, Mask
from leantune.packing.native.feed_forward import FeedForward
from leantune.packing.native.gelu import GeluLayer, bias_apart
from leantune.packing.native.int8 import product
from leantune.packing.native.library import call, serves
from leantune.packing.native.norm import Norm, is_frozen_norm

WIDTH_MULTIPLE = 32
"""D: the kernel takes the two halves of a random dword for two registers of columns."""


class _Arguments(ctypes.Structure):
    """``residual`` of ``residual.c``, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "residual", "bias")),
        ("norm", Norm),
        *((name, ctypes.c_int64) for name in ("num_rows", "width")),
        ("mask", Mask),
        *((name, ctypes.c_void_p) for name in ("out", "sum", "stats", "grad_out", "grad_x", "grad_residual")),
        ("num_threads", ctypes.c_int64),
    )


class ResidualBlock(nn.Module):
    """Drop-in for transformers' ``BertSelfOutput``, ``BertOutput`` and their like, with the same children.

    Args:
        dense: any module from the width of the layer to D.
        dropout: of its output.
        norm: over D.
    """

    def __init__(self, dense: nn.Module, dropout: PooledDropout, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.dense, self.dropout, self.LayerNorm = dense, dropout, norm
        self.block: FeedForward | None = None

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """``(..., in)`` and ``(..., D)`` to ``(..., D)``."""
        if self.block is None or hidden_states is not input_tensor:
            return add_and_norm(self.dense, self.dropout, self.LayerNorm, hidden_states, input_tensor)
        if not self.block.is_rounded(input_tensor):  # the layer before left it, so it is one or the other
            return self.block.one_pass(input_tensor)
        x, bias = self.block.rounded(input_tensor)
        return _norm_of_sum(x, bias, self.dropout, self.LayerNorm, input_tensor)


def add_and_norm(
    dense: nn.Module, dropout: PooledDropout, norm: nn.LayerNorm, hidden: Tensor, residual: Tensor
) -> Tensor:
    """LayerNorm(dropout(dense(hidden)) + residual): ``(..., in)`` and ``(..., D)`` to ``(..., D)``."""
    if not (_is_for(norm, residual) and bias_apart(dense)):
        return _norm_of_sum(dense(hidden), None, dropout, norm, residual)
    drops = dropout.training and dropout.p > 0
    if not drops and can_multiply([dense], hidden):
        return dense_and_norm(hidden, dense, residual, norm)
    return _norm_of_sum(product(hidden, dense), dense.bias, dropout, norm, residual)


def _is_for(norm: nn.LayerNorm, residual: Tensor) -> bool:
    """Whether the kernel takes them."""
    return is_frozen_norm(norm, residual) and residual.shape[-1] % WIDTH_MULTIPLE == 0 and serves(residual)


def _norm_of_sum(
    x: Tensor, bias: Tensor | None, dropout: PooledDropout, norm: nn.LayerNorm, residual: Tensor
) -> Tensor:
    """LayerNorm(dropout(x + bias) + residual), of ``(..., D)``."""
    if not _is_for(norm, residual):
        normed: Tensor = norm(dropout(x if bias is None else x + bias) + residual)
        return normed
    x, residual, p = x.contiguous(), residual.contiguous(), dropout.p if dropout.training else 0.0
    if not torch.is_grad_enabled():
        return _forward(_arguments(x, residual, bias, norm, p, dropout.stream), x)
    out: Tensor = _Residual.apply(x, residual, bias, norm, p, dropout.stream)  # type: ignore[no-untyped-call]
    return out


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor,
        bias: Tensor | None,
        norm: nn.LayerNorm,
        p: float,
        stream: DropoutStream,
    ) -> Tensor:
        arguments = _arguments(x, residual, bias, norm, p, stream)
        total, stats = torch.empty_like(x), torch.empty(arguments.num_rows, 2)
        arguments.sum, arguments.stats = total.data_ptr(), stats.data_ptr()
        ctx.save_for_backward(total, stats, norm.weight)
        ctx.arguments = arguments
        return _forward(arguments, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        total, *_ = ctx.saved_tensors
        arguments: _Arguments = ctx.arguments
        grad_out = grad_outputs[0].contiguous()
        grad_residual = torch.empty_like(total)
        drops = arguments.mask.kept_levels < LEVELS
        grad_x = torch.empty_like(total) if drops else grad_residual
        arguments.grad_out = grad_out.data_ptr()
        arguments.grad_x, arguments.grad_residual = grad_x.data_ptr(), grad_residual.data_ptr()
        call("residual_backward", arguments)
        return grad_x, grad_residual, None, None, None, None


def _arguments(
    x: Tensor, residual: Tensor, bias: Tensor | None, norm: nn.LayerNorm, p: float, stream: DropoutStream
) -> _Arguments:
    return _Arguments(
        x=x.data_ptr(),
        residual=residual.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        norm=Norm.of(norm),
        num_rows=x.numel() // x.shape[-1],
        width=x.shape[-1],
        mask=Mask.of(p, stream.key() if p else (0, 0)),
        num_threads=torch.get_num_threads(),
    )


def _forward(arguments: _Arguments, x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    arguments.out = out.data_ptr()
    call("residual_forward", arguments)
    return out


def replace_residual_blocks(model: nn.Module, names: list[str]) -> None:
    """Put `ResidualBlock` where ``model`` has modules with these names, and pair it with the `GeluLayer` before
    it; their dropout is pooled, and `replace_gelu` has been called.
    """
    for name in names:
        block: Any = model.get_submodule(name)
        children = dict(block.named_children())
        assert list(children) == ["dense", "LayerNorm", "dropout"], f"{name} has {', '.join(children)}"
        replaced = ResidualBlock(block.dense, block.dropout, block.LayerNorm)
        model.set_submodule(name, replaced)
        before = getattr(model.get_submodule(name.rpartition(".")[0]), "intermediate", None)
        if isinstance(before, GeluLayer):
            before.block = replaced.block = FeedForward(before, replaced)
