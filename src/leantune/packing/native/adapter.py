"""Frozen linear layers of one input, some of them with low-rank updates, as one graph node.

Against torch's own graph it saves passes over activations: layers of one input are one product; in int8 the updates are
added where its sums are finished (`int8.c`); one dropout serves all updates, as in the ``MergedLinear`` of LoRA's
authors; and what is thin is one pass over the rows, forward and backward (`adapter.c`).

Shape letters: T tokens, D width of the input, F columns of all outputs, R rank of all updates.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from leantune.packing.dropout import PooledDropout
from leantune.packing.native.dropout import Mask
from leantune.packing.native.int8 import SIDE, UPDATE_MULTIPLE, Int8Linear, Int8Weight, rounded_as_one
from leantune.packing.native.library import call, serves
from leantune.packing.side_by_side import as_one

TILE = 16
"""Ranks that are multiplied together."""
WIDTH_MULTIPLE = 32
"""D and F: columns that the kernel takes at once."""

_Pointer, _Count = ctypes.c_void_p, ctypes.c_int64


class _Forward(ctypes.Structure):
    """``adapter_forward`` of ``adapter.c``, field by field."""

    _fields_ = (
        *((name, _Pointer) for name in ("x", "A")),
        *((name, _Count) for name in ("T", "D", "R")),
        *((name, _Pointer) for name in ("dropped", "low")),
        ("mask", Mask),
        ("num_threads", _Count),
    )


class _Backward(ctypes.Structure):
    """``adapter_backward`` of ``adapter.c``, field by field."""

    _fields_ = (
        *((name, _Pointer) for name in ("grad", "dropped", "low", "A", "B", "spans")),
        *((name, _Count) for name in ("T", "D", "F", "R")),
        *((name, _Pointer) for name in ("grad_x", "grad_A", "grad_B")),
        ("mask", Mask),
        ("num_threads", _Count),
    )


@dataclass(frozen=True, slots=True)
class Projection:
    """``W x + b + B A dropout(x)``, or ``W x + b`` alone."""

    base: nn.Linear
    """With W ``(out, D)`` and b ``(out,)``, bf16 and frozen."""
    A: Tensor | None = None
    """``(rank, D)`` bf16."""
    B: Tensor | None = None
    """``(out, rank)`` bf16."""


def can_project(base: nn.Linear, x: Tensor) -> bool:
    """Whether `project` takes this frozen layer."""
    widths = base.weight.shape
    return not any(width % WIDTH_MULTIPLE for width in widths) and base.weight.dtype == x.dtype and serves(x)


def can_adapt(dropout: nn.Module, base: nn.Linear, x: Tensor) -> TypeGuard[PooledDropout]:
    """Whether `project` takes this layer with an update: it knows no other dropout than `PooledDropout`."""
    return isinstance(dropout, PooledDropout) and can_project(base, x)


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
    mask = Mask.of(p, dropout.stream.key() if dropout is not None and p else (0, 0))
    x_TD = x.reshape(-1, x.shape[-1]).contiguous()
    bases = [each.base for each in projections]
    rounding = [base for base in bases if isinstance(base, Int8Linear) and base.rounds(x)]
    rounded = rounded_as_one(rounding) if len(rounding) == len(bases) else None
    factors = [factor for each in projections for factor in (each.A, each.B)]
    outputs = _Projections.apply(x_TD, bases, rounded, p > 0, mask, *factors)  # type: ignore[no-untyped-call]
    return tuple(out.view(*x.shape[:-1], -1) for out in outputs)


class _Projections(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bases: list[nn.Linear],
        rounded: Int8Weight | None,
        drops: bool,
        mask: Mask,
        *factors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        weight = as_one([base.weight for base in bases], dim=0)
        places = _places([base.out_features for base in bases], factors)
        A, B = _stacked(places, factors, [base.bias for base in bases], x)
        dropped, low = _down(x, A, drops, mask)
        ctx.save_for_backward(dropped, low, A, B, weight)
        ctx.places, ctx.mask, ctx.rounded = places, mask, rounded
        out = _product_and_update(x, weight, rounded, low, B)
        if len(places) == 1:
            return (out,)  # no view, which transformers' Longformer could not change in place
        return tuple(out[:, place.rows] for place in places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        dropped, low, A, B, weight = ctx.saved_tensors
        grad, grad_x = as_one(grad_outputs, dim=1).contiguous(), None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight if ctx.rounded is None else ctx.rounded.backward(grad)
        if not any(place.rank for place in ctx.places):
            return grad_x, *[None] * (4 + 2 * len(ctx.places))
        grad_A, grad_B = _up(grad, dropped, low, A, B, _spans(ctx.places, len(A)), grad_x, ctx.mask)
        factors = (
            (grad_A[place.ranks], grad_B[place.ranks, place.rows].t()) if place.rank else (None, None)
            for place in ctx.places
        )
        return grad_x, None, None, None, None, *chain.from_iterable(factors)


def _product_and_update(
    x: Tensor, weight: Tensor, rounded: Int8Weight | None, low: Tensor, B: Tensor
) -> Tensor:
    if rounded is not None:
        return rounded.forward(x, update=(low, B))
    return (x @ weight.t()).addmm_(low[: len(x)], B.t())


def _down(x: Tensor, A: Tensor, drops: bool, mask: Mask) -> tuple[Tensor, Tensor]:
    """dropout(x) ``(T, D)``, and its product with each row of A, ``(T, R)`` and rows behind; its last column is one."""
    dropped = torch.empty_like(x) if drops else x
    low = x.new_empty(len(x) + -len(x) % SIDE, len(A))
    arguments = _Forward(
        x=x.data_ptr(),
        A=A.data_ptr(),
        T=len(x),
        D=x.shape[1],
        R=len(A),
        dropped=dropped.data_ptr() if drops else None,
        low=low.data_ptr(),
        mask=mask,
        num_threads=torch.get_num_threads(),
    )
    call("adapter_down", arguments)
    return dropped, low


def _up(
    grad: Tensor,
    dropped: Tensor,
    low: Tensor,
    A: Tensor,
    B: Tensor,
    spans: list[tuple[int, int]],
    grad_x: Tensor | None,
    mask: Mask,
) -> tuple[Tensor, Tensor]:
    """Gradients of A ``(R, D)`` and of B, transposed ``(R, F)``, where ``spans`` say there are any; the one through the
    update is added to ``grad_x``.
    """
    rank, width = A.shape
    grad_A, grad_B = torch.empty_like(A), B.new_empty(rank, len(B))
    arguments = _Backward(
        grad=grad.data_ptr(),
        dropped=dropped.data_ptr(),
        low=low.data_ptr(),
        A=A.data_ptr(),
        B=B.data_ptr(),
        spans=ctypes.cast((_Count * (2 * len(spans)))(*chain.from_iterable(spans)), _Pointer),
        T=len(grad),
        D=width,
        F=len(B),
        R=rank,
        grad_x=None if grad_x is None else grad_x.data_ptr(),
        grad_A=grad_A.data_ptr(),
        grad_B=grad_B.data_ptr(),
        mask=mask,
        num_threads=torch.get_num_threads(),
    )
    call("adapter_up", arguments)
    return grad_A, grad_B


@dataclass(frozen=True, slots=True)
class _Place:
    """Of a projection, where all stand in one A ``(R, D)`` and one B ``(F, R)``."""

    row: int
    """Its first row of B."""
    size: int
    """How many it has."""
    first: int
    """Its first row of A and column of B."""
    rank: int
    """0 without an update."""

    @property
    def rows(self) -> slice:
        """Its rows of B."""
        return slice(self.row, self.row + self.size)

    @property
    def ranks(self) -> slice:
        """Its rows of A and columns of B."""
        return slice(self.first, self.first + self.rank)


def _places(sizes: list[int], factors: Sequence[Tensor | None]) -> list[_Place]:
    """Each begins a new sixteen of ranks, which so have fewer outputs (`_spans`), unless R grows by it."""
    ranks = [0 if A is None else len(A) for A in factors[::2]]
    apart, together = (_laid_out(sizes, ranks, unit) for unit in (TILE, 1))
    return apart if _rank_of(apart) == _rank_of(together) else together


def _laid_out(sizes: list[int], ranks: list[int], unit: int) -> list[_Place]:
    places, row, first = [], 0, 0
    for size, rank in zip(sizes, ranks, strict=True):
        places.append(_Place(row, size, first, rank))
        row, first = row + size, first + rank + -rank % unit
    return places


def _rank_of(places: list[_Place]) -> int:
    """R, with a column of B that holds the biases."""
    columns = places[-1].first + places[-1].rank + 1
    return columns + -columns % UPDATE_MULTIPLE


def _spans(places: list[_Place], rank: int) -> list[tuple[int, int]]:
    """Of each sixteen of all ``rank`` ranks, from which column of the outputs to which their updates are."""
    spans = []
    for first in range(0, rank, TILE):
        own = [each for each in places if each.rank and each.first < first + TILE and each.ranks.stop > first]
        spans.append((own[0].rows.start, own[-1].rows.stop) if own else (0, 0))
    return spans


def _stacked(
    places: list[_Place], factors: Sequence[Tensor | None], biases: list[Tensor | None], x: Tensor
) -> tuple[Tensor, Tensor]:
    """One A and one B for all, zero where they do not meet; the last column of B holds the biases."""
    rank = _rank_of(places)
    all_A, all_B = x.new_zeros(rank, x.shape[1]), x.new_zeros(places[-1].rows.stop, rank)
    for place, A, B, bias in zip(places, factors[::2], factors[1::2], biases, strict=True):
        if A is not None and B is not None:
            all_A[place.ranks], all_B[place.rows, place.ranks] = A, B
        if bias is not None:
            all_B[place.rows, -1] = bias
    return all_A, all_B
