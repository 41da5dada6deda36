"""Frozen linear layers of one input, some of them with low-rank updates, as one graph node.

Against torch's own graph it saves passes over activations: layers of one input are one product, as are
their updates, which the biases come in with; one dropout serves all updates, as in the ``MergedLinear`` of
LoRA's authors; and the gradient through the dropout is added in the pass that applies its mask (`dropout.c`).

Shape letters: T tokens, D width of the input, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from leantune.packing.dropout import PooledDropout
from leantune.packing.native.dropout import COUNT_MULTIPLE, Key, drop
from leantune.packing.native.int8 import Int8Linear, Int8Weight, rounded_as_one
from leantune.packing.native.library import serves
from leantune.packing.side_by_side import as_one

RANK_MULTIPLE = 8
"""Products run at the next multiple of this, with zeros. After pruning every layer has a rank of its own,
and oneDNN compiles a kernel for each new shape; batches without padding make all shapes new at every step."""


@dataclass(frozen=True, slots=True)
class Projection:
    """``W x + b + B A dropout(x)``, or ``W x + b`` alone."""

    base: nn.Linear
    """With W ``(out, D)`` and b ``(out,)``, bf16 and frozen."""
    A: Tensor | None = None
    """``(R, D)`` bf16."""
    B: Tensor | None = None
    """``(out, R)`` bf16."""


def can_adapt(dropout: nn.Module, base: nn.Linear, x: Tensor) -> TypeGuard[PooledDropout]:
    """Whether `project` takes this layer: it knows no other dropout than `PooledDropout`."""
    return (
        isinstance(dropout, PooledDropout)
        and x.shape[-1] % COUNT_MULTIPLE == 0
        and base.weight.dtype == x.dtype
        and serves(x)
    )


def project(
    x: Tensor, projections: Sequence[Projection], dropout: PooledDropout | None
) -> tuple[Tensor, ...]:
    """The outputs of all projections side by side in one buffer, with gradients for ``x`` and each A and B.

    Args:
        x: ``(..., D)`` bf16.
        projections: of this input; the same memory must hold their weights in a row, or they are copied.
        dropout: of the input of the updates; None where there are none.

    Returns:
        ``(..., out)`` for each.
    """
    p = dropout.p if dropout is not None and dropout.training else 0.0
    key = dropout.stream.key() if dropout is not None and p else (0, 0)
    x_TD = x.reshape(-1, x.shape[-1]).contiguous()
    bases = [each.base for each in projections]
    rounding = [base for base in bases if isinstance(base, Int8Linear) and base.rounds(x)]
    rounded = rounded_as_one(rounding) if len(rounding) == len(bases) else None
    factors = [factor for each in projections for factor in (each.A, each.B)]
    outputs = _Projections.apply(x_TD, bases, rounded, p, key, *factors)  # type: ignore[no-untyped-call]
    return tuple(out.view(*x.shape[:-1], -1) for out in outputs)


class _Projections(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bases: list[nn.Linear],
        rounded: Int8Weight | None,
        p: float,
        key: Key,
        *factors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        weight = as_one([base.weight for base in bases], dim=0)
        places = _places([base.out_features for base in bases], factors)
        A, B = _stacked(places, factors, [base.bias for base in bases], x)
        dropped = drop(x, torch.empty_like(x), p, key) if p else x
        low_rank = dropped @ A.t()
        low_rank[:, -1] = 1  # what the biases are multiplied by
        ctx.save_for_backward(dropped, low_rank, A, B, weight)
        ctx.places, ctx.p, ctx.key, ctx.rounded = places, p, key, rounded
        out = (x @ weight.t() if rounded is None else rounded.forward(x)).addmm_(low_rank, B.t())
        if len(places) == 1:
            return (out,)  # no view, which transformers' Longformer could not change in place
        return tuple(out[:, place.rows] for place in places)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        dropped, low_rank, A, B, weight = ctx.saved_tensors
        if not any(place.rank for place in ctx.places):
            return _grad_of_input(ctx, grad_outputs, weight), *[None] * (4 + 2 * len(ctx.places))
        grad_low, grad_x = torch.zeros_like(low_rank), None
        grad_B = {}
        for grad, place in zip(grad_outputs, ctx.places, strict=True):
            if place.rank:
                # small factors are copied: the products take a third less time than with strides
                grad_low[:, place.block] = grad @ B[place.rows, place.block].contiguous()
                grad_B[place] = (low_rank[:, place.block].t().contiguous() @ grad).t()[:, : place.rank]
        grad_A = grad_low.t() @ dropped
        if ctx.needs_input_grad[0]:
            grad_x = _grad_of_input(ctx, grad_outputs, weight)
            if ctx.p:
                drop(grad_low @ A, grad_x, ctx.p, ctx.key, adds=True)
            else:
                grad_x.addmm_(grad_low, A)
        factors = (
            (grad_A[place.ranks], grad_B[place]) if place.rank else (None, None) for place in ctx.places
        )
        return grad_x, None, None, None, None, *chain.from_iterable(factors)


def _grad_of_input(ctx: Any, grad_outputs: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Through the frozen product alone."""
    grad = as_one(grad_outputs, dim=1)
    return grad @ weight if ctx.rounded is None else ctx.rounded.backward(grad)


@dataclass(frozen=True, slots=True)
class _Place:
    """Of a projection, where all stand in one A ``(R', D)`` and one B ``(rows, R')``."""

    row: int
    """Its first row of B."""
    size: int
    """How many it has."""
    first: int
    """Its first row of A and column of B."""
    rank: int
    """R; 0 without an update."""

    @property
    def rows(self) -> slice:
        """Its rows of B."""
        return slice(self.row, self.row + self.size)

    @property
    def ranks(self) -> slice:
        """Its rows of A and columns of B."""
        return slice(self.first, self.first + self.rank)

    @property
    def block(self) -> slice:
        """The same with the zeros behind them, for products of few shapes."""
        return slice(self.first, self.first + self.rank + -self.rank % RANK_MULTIPLE)


def _places(sizes: list[int], factors: Sequence[Tensor | None]) -> list[_Place]:
    places, row, first = [], 0, 0
    for size, A in zip(sizes, factors[::2], strict=True):
        places.append(_Place(row, size, first, 0 if A is None else len(A)))
        row, first = row + size, places[-1].block.stop
    return places


def _stacked(
    places: list[_Place], factors: Sequence[Tensor | None], biases: list[Tensor | None], x: Tensor
) -> tuple[Tensor, Tensor]:
    """One A and one B for all, zero where they do not meet; the last column of B holds the biases."""
    last = places[-1]
    width = last.block.stop + (0 if last.ranks.stop < last.block.stop else RANK_MULTIPLE)
    all_A, all_B = x.new_zeros(width, x.shape[1]), x.new_zeros(last.rows.stop, width)
    for place, A, B, bias in zip(places, factors[::2], factors[1::2], biases, strict=True):
        if A is not None and B is not None:
            all_A[place.ranks], all_B[place.rows, place.ranks] = A, B
        if bias is not None:
            all_B[place.rows, -1] = bias
    return all_A, all_B
