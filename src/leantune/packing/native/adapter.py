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
from functools import lru_cache
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from leantune.packing.dropout import PooledDropout
from leantune.packing.native.dropout import Mask
from leantune.packing.native.int8 import SIDE, UPDATE_MULTIPLE, Int8Linear, Int8Weight, rounded_as_one
from leantune.packing.native.library import call, serves
from leantune.packing.side_by_side import as_one, lay_side_by_side

TILE = 16
"""Ranks that are multiplied together."""
WIDTH_MULTIPLE = 32
"""D and F: columns that the kernel takes at once."""

_Pointer, _Count = ctypes.c_void_p, ctypes.c_int64


class _Projection(ctypes.Structure):
    """``projection`` of ``adapter.c``, field by field."""

    _fields_ = (
        *((name, _Pointer) for name in ("A", "E", "B", "bias")),
        *((name, _Count) for name in ("columns", "rank", "column", "first")),
        ("scaling", ctypes.c_float),
        *((name, _Pointer) for name in ("grad_A", "grad_E", "grad_B")),
    )


class _Forward(ctypes.Structure):
    """``adapter_forward`` of ``adapter.c``, field by field."""

    _fields_ = (
        *((name, _Pointer) for name in ("x", "projections")),
        *((name, _Count) for name in ("num_projections", "T", "D", "F", "R")),
        *((name, _Pointer) for name in ("A", "B", "dropped", "low")),
        ("mask", Mask),
        ("num_threads", _Count),
    )


class _Backward(ctypes.Structure):
    """``adapter_backward`` of ``adapter.c``, field by field."""

    _fields_ = (
        *((name, _Pointer) for name in ("grad", "dropped", "low", "A", "B", "projections")),
        *((name, _Count) for name in ("num_projections", "T", "D", "F", "R")),
        ("grad_x", _Pointer),
        ("mask", Mask),
        ("num_threads", _Count),
    )


@dataclass(frozen=True, slots=True)
class Update:
    """``scaling * B (A * E)``; the factors are contiguous fp32."""

    A: Tensor
    """``(rank, D)``."""
    E: Tensor
    """``(rank, 1)``."""
    B: Tensor
    """``(out, rank)``."""
    scaling: float


@dataclass(frozen=True, slots=True)
class Projection:
    """``W x + b``, plus its update of dropout(x)."""

    base: nn.Linear
    """With W ``(out, D)`` and b ``(out,)``, bf16 and frozen."""
    update: Update | None = None


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
    """The outputs of all projections side by side in one buffer, with gradients for ``x`` and each A, E and B.

    Args:
        x: ``(..., D)`` bf16.
        projections: of this input; in bf16 their weights move into one buffer.
        dropout: of the input of the updates; None where there are none.

    Returns:
        ``(..., out)`` for each.
    """
    p = dropout.p if dropout is not None and dropout.training else 0.0
    mask = Mask.of(p, dropout.stream.key() if dropout is not None and p else (0, 0))
    x_TD = x.reshape(-1, x.shape[-1]).contiguous()
    bases = [each.base for each in projections]
    rounding = [base for base in bases if isinstance(base, Int8Linear) and base.rounds(x)]
    weight = _Bf16Weight.of(bases) if len(rounding) < len(bases) else rounded_as_one(rounding)
    factors = [
        factor
        for each in projections
        for factor in ((each.update.A, each.update.E, each.update.B) if each.update else (None, None, None))
    ]
    outputs = _Projections.apply(x_TD, projections, weight, p > 0, mask, *factors)  # type: ignore[no-untyped-call]
    return tuple(out.view(*x.shape[:-1], -1) for out in outputs)


@dataclass(frozen=True, slots=True)
class _Bf16Weight:
    """Frozen weights in bf16, one below the other; `Int8Weight` is the same in int8."""

    whole: Tensor
    """``(F, D)``."""

    @classmethod
    def of(cls, layers: Sequence[nn.Linear]) -> _Bf16Weight:
        """The weights of ``layers``, which move into one buffer."""
        weights = [layer.weight for layer in layers]
        lay_side_by_side(weights)
        return cls(as_one(weights, dim=0))

    def forward(self, x_TD: Tensor, *, update: tuple[Tensor, Tensor]) -> Tensor:
        """``W x`` and an update for each token: ``(T, D)`` to ``(T, F)``."""
        low, B = update
        return (x_TD @ self.whole.t()).addmm_(low[: len(x_TD)], B.t())

    def backward(self, grad_TF: Tensor) -> Tensor:
        """The gradient of x ``(T, D)``."""
        return grad_TF @ self.whole


class _Projections(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        projections: Sequence[Projection],
        weight: Int8Weight | _Bf16Weight,
        drops: bool,
        mask: Mask,
        *factors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        places = _places(
            tuple(each.base.out_features for each in projections),
            tuple(0 if each.update is None else len(each.update.A) for each in projections),
        )
        A, B, dropped, low = _down(x, places, projections, drops, mask)
        ctx.save_for_backward(dropped, low, A, B, *factors)
        ctx.weight, ctx.projections, ctx.places, ctx.mask = weight, projections, places, mask
        out = weight.forward(x, update=(low, B))
        if len(places) == 1:
            return (out,)  # no view, which transformers' Longformer could not change in place
        return tuple(out[:, place.rows] for place in places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        dropped, low, A, B, *factors = ctx.saved_tensors
        grad = as_one(grad_outputs, dim=1).contiguous()
        grad_x = ctx.weight.backward(grad) if ctx.needs_input_grad[0] else None
        wanted = ctx.needs_input_grad[-len(factors) :]
        grads = [
            torch.empty_like(f) if f is not None and w else None for f, w in zip(factors, wanted, strict=True)
        ]
        if any(place.rank for place in ctx.places):
            filled = _described(ctx.places, ctx.projections, grads)
            _up(grad, dropped, low, A, B, filled, grad_x, ctx.mask)
        return grad_x, None, None, None, None, *grads


def _down(
    x: Tensor, places: Sequence[_Place], projections: Sequence[Projection], drops: bool, mask: Mask
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A ``(R, D)`` and B ``(F, R)`` of all projections in bf16, rows of A scaled by E; dropout(x) ``(T, D)``; and its
    product with each row of A, ``(T, R)`` and rows behind. Its last column is one, and that of B holds the biases.
    """
    rank, columns = _rank_of(places), places[-1].rows.stop
    A, B = x.new_empty(rank, x.shape[1]), x.new_empty(columns, rank)
    dropped = torch.empty_like(x) if drops else x
    low = x.new_empty(len(x) + -len(x) % SIDE, rank)
    described = _described(places, projections)
    arguments = _Forward(
        x=x.data_ptr(),
        projections=ctypes.addressof(described),
        num_projections=len(described),
        T=len(x),
        D=x.shape[1],
        F=columns,
        R=rank,
        A=A.data_ptr(),
        B=B.data_ptr(),
        dropped=dropped.data_ptr() if drops else None,
        low=low.data_ptr(),
        mask=mask,
        num_threads=torch.get_num_threads(),
    )
    call("adapter_down", arguments)
    return A, B, dropped, low


def _up(
    grad: Tensor,
    dropped: Tensor,
    low: Tensor,
    A: Tensor,
    B: Tensor,
    described: ctypes.Array[_Projection],
    grad_x: Tensor | None,
    mask: Mask,
) -> None:
    """Fill the gradients of all factors; the one through the update is added to ``grad_x``."""
    arguments = _Backward(
        grad=grad.data_ptr(),
        dropped=dropped.data_ptr(),
        low=low.data_ptr(),
        A=A.data_ptr(),
        B=B.data_ptr(),
        projections=ctypes.addressof(described),
        num_projections=len(described),
        T=len(grad),
        D=A.shape[1],
        F=len(B),
        R=len(A),
        grad_x=None if grad_x is None else grad_x.data_ptr(),
        mask=mask,
        num_threads=torch.get_num_threads(),
    )
    call("adapter_up", arguments)


def _described(
    places: Sequence[_Place], projections: Sequence[Projection], grads: Sequence[Tensor | None] | None = None
) -> ctypes.Array[_Projection]:
    """What the kernels are told of each projection, and where ``grads`` of its A, E and B go."""
    described = (_Projection * len(places))()
    for number, (to, place, each) in enumerate(zip(described, places, projections, strict=True)):
        to.columns, to.rank, to.column, to.first = place.size, place.rank, place.row, place.first
        to.bias = None if each.base.bias is None else each.base.bias.data_ptr()
        if each.update is not None:
            update = each.update
            to.A, to.E, to.B = update.A.data_ptr(), update.E.data_ptr(), update.B.data_ptr()
            to.scaling = update.scaling
            if grads is not None:
                to.grad_A, to.grad_E, to.grad_B = (
                    None if grad is None else grad.data_ptr() for grad in grads[3 * number : 3 * number + 3]
                )
    return described


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


@lru_cache(maxsize=256)
def _places(sizes: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[_Place, ...]:
    """Each begins a new sixteen of ranks, which so have fewer outputs to multiply, unless R grows by it."""
    apart, together = (_laid_out(sizes, ranks, unit) for unit in (TILE, 1))
    return apart if _rank_of(apart) == _rank_of(together) else together


def _laid_out(sizes: tuple[int, ...], ranks: tuple[int, ...], unit: int) -> tuple[_Place, ...]:
    places, row, first = [], 0, 0
    for size, rank in zip(sizes, ranks, strict=True):
        places.append(_Place(row, size, first, rank))
        row, first = row + size, first + rank + -rank % unit
    return tuple(places)


def _rank_of(places: Sequence[_Place]) -> int:
    """R, with a column of B that holds the biases."""
    columns = places[-1].first + places[-1].rank + 1
    return columns + -columns % UPDATE_MULTIPLE
