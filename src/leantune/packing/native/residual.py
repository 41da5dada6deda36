"""The block behind attention and feed-forward layers: LayerNorm(dropout(dense(x)) + input).

In bf16 on the CPU all but the product is one pass, forward and backward (`norm.py`).

D model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from leantune.packing.dropout import PooledDropout
from leantune.packing.native.dense import can_multiply, dense_and_norm
from leantune.packing.native.feed_forward import FeedForward
from leantune.packing.native.gelu import GeluLayer, bias_apart
from leantune.packing.native.int8 import product
from leantune.packing.native.norm import NormOfSum, can_normalise


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
        return self.block.whole(input_tensor)


def add_and_norm(
    dense: nn.Module, dropout: PooledDropout, norm: nn.LayerNorm, hidden: Tensor, residual: Tensor
) -> Tensor:
    """LayerNorm(dropout(dense(hidden)) + residual): ``(..., in)`` and ``(..., D)`` to ``(..., D)``."""
    if not (can_normalise(norm, residual) and bias_apart(dense)):
        return _norm_of_sum(dense(hidden), None, dropout, norm, residual)
    drops = dropout.training and dropout.p > 0
    if not drops and can_multiply([dense], hidden):
        return dense_and_norm(hidden, dense, residual, norm)
    return _norm_of_sum(product(hidden, dense), dense.bias, dropout, norm, residual)


def _norm_of_sum(
    x: Tensor, bias: Tensor | None, dropout: PooledDropout, norm: nn.LayerNorm, residual: Tensor
) -> Tensor:
    """LayerNorm(dropout(x + bias) + residual), of ``(..., D)``."""
    if not can_normalise(norm, residual):
        normed: Tensor = norm(dropout(x if bias is None else x + bias) + residual)
        return normed
    x, residual, kernel = x.contiguous(), residual.contiguous(), NormOfSum.of(norm, bias, dropout)
    if not torch.is_grad_enabled():
        return kernel.of_sum(x, residual)
    out: Tensor = _Residual.apply(x, residual, kernel)  # type: ignore[no-untyped-call]
    return out


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, kernel: NormOfSum) -> Tensor:
        out, total, stats = kernel.forward(x, residual)
        ctx.save_for_backward(total, stats)
        ctx.kernel = kernel
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.kernel.backward(*ctx.saved_tensors, grad_outputs[0]), None


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
