"""A frozen linear layer with a low-rank update, as one graph node.

Against torch's own graph it saves passes over activations: the bias comes in with the product of the update,
and the gradient through the dropout is added in the pass that applies its mask (`dropout.c`).

Shape letters: T tokens, R rank.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from leantune.packing.dropout import PooledDropout
from leantune.packing.native.dropout import COUNT_MULTIPLE, Key, drop
from leantune.packing.native.library import serves


def can_adapt(dropout: nn.Module, base: nn.Linear, x: Tensor) -> TypeGuard[PooledDropout]:
    """Whether `adapted_linear` takes this layer: any other dropout it does not know."""
    return (
        isinstance(dropout, PooledDropout)
        and x.shape[-1] % COUNT_MULTIPLE == 0
        and base.weight.dtype == x.dtype
        and serves(x)
    )


def adapted_linear(
    x: Tensor, base: nn.Linear, A: Tensor, B: Tensor, dropout: PooledDropout, rank_multiple: int
) -> Tensor:
    """``W x + b + B A dropout(x)``, with gradients for ``x``, ``A`` and ``B``.

    Args:
        x: ``(..., in)`` bf16.
        base: W and b, frozen.
        A: ``(R, in)`` bf16.
        B: ``(out, R)`` bf16.
        dropout: of the input of the update.
        rank_multiple: products run at the next multiple of this.
    """
    p = dropout.p if dropout.training else 0.0
    key = dropout.stream.key() if p else (0, 0)
    x_TD = x.reshape(-1, x.shape[-1]).contiguous()
    out: Tensor = _AdaptedLinear.apply(  # type: ignore[no-untyped-call]
        x_TD, A, B, base.weight, base.bias, p, key, rank_multiple
    )
    return out.view(*x.shape[:-1], -1)


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        A: Tensor,
        B: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        p: float,
        key: Key,
        rank_multiple: int,
    ) -> Tensor:
        rank = len(A)
        width = rank + 1 + -(rank + 1) % rank_multiple
        padded_A, padded_B = x.new_zeros(width, x.shape[1]), x.new_zeros(len(B), width)
        padded_A[:rank], padded_B[:, :rank] = A, B
        dropped = drop(x, torch.empty_like(x), p, key) if p else x
        low_rank = dropped @ padded_A.t()
        if bias is not None:  # the column behind the rank carries it
            low_rank[:, rank], padded_B[:, rank] = 1, bias
        ctx.save_for_backward(dropped, low_rank, padded_A, padded_B, weight)
        ctx.rank, ctx.p, ctx.key = rank, p, key
        return (x @ weight.t()).addmm_(low_rank, padded_B.t())

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        dropped, low_rank, padded_A, padded_B, weight = ctx.saved_tensors
        grad_out = grad_outputs[0].contiguous()
        grad_low = grad_out @ padded_B
        grad_A = (grad_low.t() @ dropped)[: ctx.rank]
        grad_B = (grad_out.t() @ low_rank)[:, : ctx.rank]
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_out @ weight
            if ctx.p:
                drop(grad_low @ padded_A, grad_x, ctx.p, ctx.key, adds=True)
            else:
                grad_x.addmm_(grad_low, padded_A)
        return grad_x, grad_A, grad_B, None, None, None, None, None
