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
from leantune.packing.native.dropout import LEVELS, Mask
from leantune.packing.native.library import call, mirrors, serves
from leantune.packing.native.rounded import SIDE, UPDATE_MULTIPLE
from leantune.packing.native.weight import FrozenWeight, weight_of
from leantune.packing.side_by_side import as_one

TILE = 16
"""Ranks that are multiplied together."""
WIDTH_MULTIPLE = 32
"""D and F: columns that the kernel takes at once."""

_Pointer, _Count = ctypes.c_void_p, ctypes.c_int64


@mirrors("projection")
class _Projection(ctypes.Structure):
    """``projection`` of ``csrc/kernels.h``, field by field."""

    _fields_ = (
        *((name, _Pointer) for name in ("A", "E", "B", "bias")),
        *((name, _Count) for name in ("columns", "rank", "column", "first")),
        ("scaling", ctypes.c_float),
        *((name, _Pointer) for name in ("grad_A", "grad_E", "grad_B")),
    )


Projections = ctypes.POINTER(_Projection)


@mirrors("adapter_forward")
class AdapterForward(ctypes.Structure):
    """``adapter_forward`` of ``csrc/kernels.h``, field by field."""

    _fields_ = (
        ("x", _Pointer),
        ("projections", Projections),
        *((name, _Count) for name in ("num_projections", "T", "D", "F", "R")),
        *((name, _Pointer) for name in ("A", "B", "dropped", "low")),
        ("mask", Mask),
        ("num_threads", _Count),
    )


@mirrors("adapter_backward")
class _Backward(ctypes.Structure):
    """``adapter_backward`` of ``csrc/kernels.h``, field by field."""

    _fields_ = (
        *((name, _Pointer) for name in ("grad", "dropped", "low", "A", "B")),
        ("projections", Projections),
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
    is_odd = base.in_features % WIDTH_MULTIPLE or base.out_features % WIDTH_MULTIPLE
    return not is_odd and base.weight.dtype == x.dtype and serves(x)


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
    x_TD = x.reshape(-1, x.shape[-1]).contiguous()
    joint = Joint.of(x, projections, dropout)
    outputs = _Projections.apply(x_TD, joint, *joint.factors())  # type: ignore[no-untyped-call]
    return tuple(out.view(*x.shape[:-1], -1) for out in outputs)


Saved = tuple[Tensor, Tensor, Tensor, Tensor]
"""What a forward pass keeps for the backward pass: A ``(R, D)`` and B ``(F, R)`` of all projections in bf16, dropout(x)
``(T, D)`` and its product with A, ``(T, R)`` and rows behind."""


@dataclass(frozen=True, slots=True)
class Joint:
    """Projections of one input as one."""

    projections: tuple[Projection, ...]
    weight: FrozenWeight
    """W ``(F, D)`` of all."""
    places: tuple[_Place, ...]
    """Where each stands in A and B of all."""
    mask: Mask
    """Of the dropout of x, the same both ways."""

    @classmethod
    def of(cls, x: Tensor, projections: Sequence[Projection], dropout: PooledDropout | None) -> Joint:
        """Of projections of ``x``, with a new mask where ``dropout`` drops."""
        p = dropout.p if dropout is not None and dropout.training else 0.0
        mask = Mask.of(p, dropout.stream.key() if dropout is not None and p else (0, 0))
        places = _places(
            tuple(each.base.out_features for each in projections),
            tuple(0 if each.update is None else each.update.A.shape[0] for each in projections),
        )
        return cls(tuple(projections), weight_of([each.base for each in projections], x), places, mask)

    def factors(self) -> list[Tensor | None]:
        """A, E and B of each, or three times None."""
        return [
            factor
            for each in self.projections
            for factor in ((each.update.A, each.update.E, each.update.B) if each.update else (None,) * 3)
        ]

    @property
    def num_factors(self) -> int:
        """How many `factors` there are."""
        return 3 * len(self.projections)

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Saved]:
        """All outputs ``(T, F)``, and what `backward` wants."""
        arguments, saved = self.down(x_TD)
        call("adapter_down", arguments)
        _, B, _, low = saved
        return self.weight.forward(x_TD, update=(low, B)), saved

    def down(self, x_TD: Tensor) -> tuple[AdapterForward, Saved]:
        """What ``adapter_down`` is given and writes. Rows of A are scaled by E; the last column of the product is one,
        and that of B holds the biases.
        """
        arguments = self.arguments(x_TD)
        rows, width, columns, rank = arguments.T, arguments.D, arguments.F, arguments.R
        A, B = x_TD.new_empty(rank, width), x_TD.new_empty(columns, rank)
        dropped = torch.empty_like(x_TD) if self.drops else x_TD
        low = x_TD.new_empty(rows + -rows % SIDE, rank)
        arguments.A, arguments.B, arguments.low = A.data_ptr(), B.data_ptr(), low.data_ptr()
        arguments.dropped = dropped.data_ptr() if self.drops else None
        return arguments, (A, B, dropped, low)

    @property
    def drops(self) -> bool:
        """Whether the updates see dropout(x), not x."""
        return bool(self.mask.kept_levels < LEVELS)

    def arguments(self, x_TD: Tensor) -> AdapterForward:
        """What ``adapter_down`` is given, but for where it writes."""
        (rows, width), described = x_TD.shape, self.described()
        return AdapterForward(
            x=x_TD.data_ptr(),
            projections=described,
            num_projections=len(described),
            T=rows,
            D=width,
            F=self.places[-1].row + self.places[-1].size,
            R=_rank_of(self.places),
            mask=self.mask,
            num_threads=torch.get_num_threads(),
        )

    def backward(
        self,
        saved: Saved,
        grad_TF: Tensor,
        wants_factors: Sequence[bool],
        *,
        wants_x: bool,
        onto: Tensor | None = None,
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """The gradients of x, added to ``onto`` if that is given, and of those `factors` that are wanted."""
        grad_x = self.weight.backward(grad_TF, onto=onto) if wants_x else None
        grads = self.gradients(wants_factors)
        _up(grad_TF, saved, self.described(grads), grad_x, self.mask)
        return grad_x, grads

    def gradients(self, wants_factors: Sequence[bool]) -> list[Tensor | None]:
        """Memory for those of `factors` that are wanted."""
        return [
            torch.empty_like(factor) if factor is not None and wanted else None
            for factor, wanted in zip(self.factors(), wants_factors, strict=True)
        ]

    def described(self, grads: Sequence[Tensor | None] | None = None) -> ctypes.Array[_Projection]:
        """What the kernels are told of each projection, and where ``grads`` of its A, E and B go."""
        described = (_Projection * len(self.places))()
        for number, (to, place, each) in enumerate(
            zip(described, self.places, self.projections, strict=True)
        ):
            to.columns, to.rank, to.column, to.first = place.size, place.rank, place.row, place.first
            to.bias = None if each.base.bias is None else each.base.bias.data_ptr()
            if each.update is not None:
                update = each.update
                to.A, to.E, to.B = update.A.data_ptr(), update.E.data_ptr(), update.B.data_ptr()
                to.scaling = update.scaling
                if grads is not None:
                    to.grad_A, to.grad_E, to.grad_B = (
                        None if grad is None else grad.data_ptr()
                        for grad in grads[3 * number : 3 * number + 3]
                    )
        return described


class _Projections(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, joint: Joint, *factors: Tensor | None) -> tuple[Tensor, ...]:
        out, saved = joint.forward(x_TD)
        ctx.save_for_backward(*saved, *factors)  # those of joint: what changes in them is noticed
        ctx.joint = joint
        if len(joint.projections) == 1:
            return (out,)  # no view, which transformers' Longformer could not change in place
        return torch.split(out, [each.base.out_features for each in joint.projections], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors[:4]
        wants_x, _, *wants_factors = ctx.needs_input_grad
        grad = as_one(grad_outputs, dim=1).contiguous()
        grad_x, grads = ctx.joint.backward(saved, grad, wants_factors, wants_x=wants_x)
        return grad_x, None, *grads


def _up(
    grad: Tensor, saved: Saved, described: ctypes.Array[_Projection], grad_x: Tensor | None, mask: Mask
) -> None:
    """Fill the gradients of all factors; the one through the update is added to ``grad_x``."""
    A, B, dropped, low = saved
    arguments = _Backward(
        grad=grad.data_ptr(),
        dropped=dropped.data_ptr(),
        low=low.data_ptr(),
        A=A.data_ptr(),
        B=B.data_ptr(),
        projections=described,
        num_projections=len(described),
        T=grad.shape[0],
        D=A.shape[1],
        F=B.shape[0],
        R=A.shape[0],
        grad_x=None if grad_x is None else grad_x.data_ptr(),
        mask=mask,
        num_threads=torch.get_num_threads(),
    )
    call("adapter_up", arguments)


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
