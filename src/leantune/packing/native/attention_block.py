"""Self-attention with its adapters, the layer behind it, residual and norm as one graph node instead of four: no sum of
two gradients is a pass of its own.

Shape letters: T packed tokens, S texts, N heads, H head width, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from leantune.packing.native.adapter import Joint
from leantune.packing.native.attention import Attention
from leantune.packing.native.norm import NormOfSum
from leantune.packing.native.weight import FrozenWeight


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """LayerNorm(dropout(dense(attention(x))) + x), of first tokens alone where nobody wants the others."""

    joint: Joint
    """Query, key and value, each from D to N * H."""
    attention: Attention
    head_width: int
    behind: FrozenWeight
    """W of the layer behind the heads."""
    norm: NormOfSum
    """With the bias of that layer."""

    def __call__(self, x: Tensor) -> Tensor:
        """``(1, T, D)`` to ``(1, T or S, D)``."""
        factors = self.joint.factors()
        out: Tensor = _AttentionBlock.apply(x.flatten(0, 1).contiguous(), self, *factors)  # type: ignore[no-untyped-call]
        return out[None]


class _AttentionBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, block: AttentionBlock, *factors: Tensor | None) -> Tensor:
        projected, saved = block.joint.forward(x_TD)
        q, k, v = _heads_of(projected, block.head_width)
        heads, stats = block.attention.forward(q, k, v)
        hidden, residual, rows = heads.flatten(1), x_TD, None
        if block.attention.only_first:
            rows = block.attention.plan.first_tokens
            hidden, residual = hidden[rows], residual[rows]
        summed = block.behind.forward(hidden)
        out, total, moments = block.norm.forward(summed, residual, into=summed)
        ctx.save_for_backward(*saved, projected, heads, stats, total, moments, rows, *factors)
        ctx.block = block
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        block: AttentionBlock = ctx.block
        wants_x, _, *wants_factors = ctx.needs_input_grad
        *saved, projected, heads, stats, total, moments, rows = ctx.saved_tensors[:10]
        grad, residual = block.norm.backward(total, moments, grad_outputs[0])
        grad_heads = block.behind.backward(grad)
        if rows is not None:
            read = grad_heads  # of rows that are no first token nothing is read
            grad_heads = torch.empty_like(heads).flatten(1).index_copy_(0, rows, read)
            residual = residual.new_zeros(len(heads), residual.shape[1]).index_copy_(0, rows, residual)
        grad_projected = torch.empty_like(projected)
        kept = (*_heads_of(projected, block.head_width), heads, stats)
        block.attention.backward(kept, grad_heads, _heads_of(grad_projected, block.head_width))
        grad_x, grads = block.joint.backward(
            saved, grad_projected, wants_factors, wants_x=wants_x, onto=residual
        )
        return grad_x, None, *grads


def _heads_of(projected: Tensor, head_width: int) -> tuple[Tensor, ...]:
    """Query, key and value ``(T, N, H)`` of ``(T, 3 * N * H)``."""
    return projected.view(len(projected), 3, -1, head_width).unbind(1)
