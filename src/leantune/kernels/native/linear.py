"""Frozen linear layers with the same input, some with low-rank updates, as one graph node.

Compared with torch's own graph, this saves passes over activations. Layers with the same input are one product. In int8
the updates are added when its sums are finished (`int8.c`). One dropout serves all updates, as in the ``MergedLinear``
of LoRA's authors. Thin products are one pass over the rows, forward and backward (`adapter.c`).

Shape letters: T tokens, D width of the input, F columns of all outputs, R rank of all updates.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from leantune.adalora.layer import AdaLoraLinear
from leantune.kernels.interface import Linear, frozen
from leantune.kernels.native.library import call, mirrors
from leantune.kernels.native.rows import Mask, mask_of
from leantune.kernels.native.weights import SIDE, UPDATE_MULTIPLE, PackedWeight
from leantune.packing.dropout import LEVELS

TILE = 16
"""Number of ranks that are multiplied together."""
BYTES_OF_BF16 = 2
WIDTH_MULTIPLE = 32
"""D and F must be multiples of this number of columns that the kernel takes at once."""

_Pointer, _Count = ctypes.c_void_p, ctypes.c_int64


@mirrors("projection")
class ProjectionArgument(ctypes.Structure):
    """``projection`` of ``csrc/kernels.h``."""

    _fields_ = (
        *((name, _Pointer) for name in ("A", "E", "B", "bias")),
        *((name, _Count) for name in ("columns", "rank", "column", "first")),
        ("scaling", ctypes.c_float),
        *((name, _Pointer) for name in ("grad_A", "grad_E", "grad_B")),
    )


Projections = ctypes.POINTER(ProjectionArgument)


@mirrors("adapter_forward")
class AdapterForward(ctypes.Structure):
    """``adapter_forward`` of ``csrc/kernels.h``."""

    _fields_ = (
        ("x", _Pointer),
        ("projections", Projections),
        *((name, _Count) for name in ("num_projections", "T", "D", "F", "R")),
        *((name, _Pointer) for name in ("A", "B", "dropped", "low")),
        ("mask", Mask),
        ("num_threads", _Count),
    )


@mirrors("adapter_backward")
class AdapterBackward(ctypes.Structure):
    """``adapter_backward`` of ``csrc/kernels.h``."""

    _fields_ = (
        *((name, _Pointer) for name in ("grad", "dropped", "low", "A", "B")),
        ("projections", Projections),
        *((name, _Count) for name in ("num_projections", "T", "D", "F", "R")),
        ("grad_x", _Pointer),
        ("mask", Mask),
        ("num_threads", _Count),
    )


@dataclass(frozen=True, slots=True)
class LoraFactors:
    """Factors of the update ``scaling * B (A * E)``, in contiguous fp32."""

    A: Tensor
    """``(rank, D)``."""
    E: Tensor
    """``(rank, 1)``."""
    B: Tensor
    """``(out, rank)``."""
    scaling: float

    @classmethod
    def of(cls, layer: Linear) -> LoraFactors | None:
        """The factors of an adapted layer; None for a frozen one."""
        if not isinstance(layer, AdaLoraLinear):
            return None
        A, E, B = (factor.float().contiguous() for factor in (layer.lora_A, layer.lora_E, layer.lora_B))
        return cls(A, E, B, layer.scaling)


Saved = tuple[Tensor, Tensor, Tensor, Tensor]
"""Tensors that a forward pass keeps for the backward pass.

A ``(R, D)`` and B ``(F, R)`` of all layers in bf16, dropout(x) ``(T, D)``, and its product with A: ``(T, R)`` and some
extra rows."""


@dataclass(frozen=True, slots=True)
class FusedLinear:
    """Linear layers with the same input fused into one, for a pass over a batch and back; outputs are concatenated."""

    weight: PackedWeight
    """W ``(F, D)`` and b of all layers."""
    updates: tuple[LoraFactors | None, ...]
    """The update of each layer."""
    places: tuple[_Place, ...]
    """Position of each layer in the common A and B."""
    mask: Mask
    """The dropout mask of x, the same in both directions."""
    quantized: bool
    """Whether products with W are in int8."""

    @classmethod
    def of(cls, weight: PackedWeight, layers: Sequence[Linear], *, quantized: bool) -> FusedLinear:
        """Fuse ``layers``, from which ``weight`` was packed; draws a new mask if they have dropout."""
        updates = tuple(map(LoraFactors.of, layers))
        dropout = next((layer.dropout for layer in layers if isinstance(layer, AdaLoraLinear)), None)
        places = _places(
            tuple(_out_features(layer) for layer in layers),
            tuple(0 if update is None else update.A.shape[0] for update in updates),
        )
        return cls(weight, updates, places, mask_of(dropout), quantized)

    @property
    def has_updates(self) -> bool:
        """Whether any of the layers is adapted."""
        return any(update is not None for update in self.updates)

    def __call__(self, x_TD: Tensor) -> Tensor:
        """All outputs ``(T, F)``, with gradients for ``x_TD`` and each A, E and B."""
        out: Tensor = _FusedLinear.apply(x_TD.contiguous(), self, *self.factors())  # type: ignore[no-untyped-call]
        return out

    def factors(self) -> list[Tensor | None]:
        """A, E and B of each layer, or None three times."""
        return [
            factor
            for update in self.updates
            for factor in ((update.A, update.E, update.B) if update else (None,) * 3)
        ]

    @property
    def num_factors(self) -> int:
        """The number of `factors`."""
        return 3 * len(self.updates)

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Saved]:
        """All outputs ``(T, F)``, and the tensors that `backward` needs."""
        arguments, saved = self.down(x_TD)
        call("adapter_down", arguments)
        _, B, _, low = saved
        return self.weight.forward(x_TD, quantized=self.quantized, update=(low, B)), saved

    def down(self, x_TD: Tensor) -> tuple[AdapterForward, Saved]:
        """Arguments for ``adapter_down``, and the tensors that it fills.

        Rows of A are scaled by E. The last column of the product is one, and that column of B holds the biases.
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
        """Whether the updates use dropout(x) instead of x."""
        return bool(self.mask.kept_levels < LEVELS)

    def arguments(self, x_TD: Tensor) -> AdapterForward:
        """Arguments for ``adapter_down``, without the addresses of outputs."""
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
        """The gradients of x, added to ``onto`` if given, and of the wanted `factors`."""
        grad_x = self.weight.backward(grad_TF, quantized=self.quantized, onto=onto) if wants_x else None
        grads = self.gradients(wants_factors)
        _up(grad_TF, saved, self.described(grads), grad_x, self.mask)
        return grad_x, grads

    def gradients(self, wants_factors: Sequence[bool]) -> list[Tensor | None]:
        """Memory for the gradients of the wanted `factors`."""
        return [
            torch.empty_like(factor) if factor is not None and wanted else None
            for factor, wanted in zip(self.factors(), wants_factors, strict=True)
        ]

    def described(self, grads: Sequence[Tensor | None] | None = None) -> ctypes.Array[ProjectionArgument]:
        """Describe each layer for the kernels, with the addresses of ``grads`` for its A, E and B."""
        described = (ProjectionArgument * len(self.places))()
        bias = None if self.weight.bias is None else self.weight.bias.data_ptr()
        for number, (to, place, update) in enumerate(zip(described, self.places, self.updates, strict=True)):
            to.columns, to.rank, to.column, to.first = place.size, place.rank, place.row, place.first
            to.bias = None if bias is None else bias + place.row * BYTES_OF_BF16
            if update is not None:
                to.A, to.E, to.B = update.A.data_ptr(), update.E.data_ptr(), update.B.data_ptr()
                to.scaling = update.scaling
                if grads is not None:
                    to.grad_A, to.grad_E, to.grad_B = (
                        None if grad is None else grad.data_ptr()
                        for grad in grads[3 * number : 3 * number + 3]
                    )
        return described


class _FusedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, fused: FusedLinear, *factors: Tensor | None) -> Tensor:
        out, saved = fused.forward(x_TD)
        ctx.save_for_backward(*saved, *factors)  # factors of `fused`: so that torch detects in-place changes
        ctx.fused = fused
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors[:4]
        wants_x, _, *wants_factors = ctx.needs_input_grad
        grad = grad_outputs[0].contiguous()
        grad_x, grads = ctx.fused.backward(saved, grad, wants_factors, wants_x=wants_x)
        return grad_x, None, *grads


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight: PackedWeight, bias: Tensor | None, quantized: bool) -> Tensor:
        ctx.weight, ctx.quantized = weight, quantized
        return weight.forward(x_TD, bias, quantized=quantized)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        grad = grad_outputs[0].contiguous()
        return ctx.weight.backward(grad, quantized=ctx.quantized), None, None, None


def linear(x_TD: Tensor, weight: PackedWeight, layers: Sequence[Linear], *, quantized: bool) -> Tensor:
    """The concatenated outputs ``(T, F)`` of ``layers``."""
    fused = FusedLinear.of(weight, layers, quantized=quantized)
    return fused(x_TD) if fused.has_updates else _frozen(x_TD, weight, weight.bias, quantized)


def without_bias(
    x_TD: Tensor, weight: PackedWeight, layers: Sequence[Linear], *, quantized: bool
) -> tuple[Tensor, Tensor | None]:
    """The output of `linear` without the bias, and that bias.

    With updates, it returns the output with the bias, and None, because one pass adds both.
    """
    fused = FusedLinear.of(weight, layers, quantized=quantized)
    return (fused(x_TD), None) if fused.has_updates else (_frozen(x_TD, weight, None, quantized), weight.bias)


def _frozen(x_TD: Tensor, weight: PackedWeight, bias: Tensor | None, quantized: bool) -> Tensor:
    out: Tensor = _FrozenLinear.apply(x_TD.contiguous(), weight, bias, quantized)  # type: ignore[no-untyped-call]
    return out


def _out_features(layer: Linear) -> int:
    return frozen(layer).out_features


def _up(
    grad: Tensor, saved: Saved, described: ctypes.Array[ProjectionArgument], grad_x: Tensor | None, mask: Mask
) -> None:
    """Fill the gradients of all factors, and add the gradient through the update to ``grad_x``."""
    A, B, dropped, low = saved
    arguments = AdapterBackward(
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
    """Position of a layer among all layers, which share one A ``(R, D)`` and one B ``(F, R)``."""

    row: int
    """Its first row in B."""
    size: int
    """Its number of rows in B."""
    first: int
    """Its first row in A and column in B."""
    rank: int
    """Its rank; 0 without an update."""


@lru_cache(maxsize=256)
def _places(sizes: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[_Place, ...]:
    """Start each layer at a new multiple of 16 ranks, so that fewer outputs are multiplied, unless R would grow."""
    apart, together = (_laid_out(sizes, ranks, unit) for unit in (TILE, 1))
    return apart if _rank_of(apart) == _rank_of(together) else together


def _laid_out(sizes: tuple[int, ...], ranks: tuple[int, ...], unit: int) -> tuple[_Place, ...]:
    places, row, first = [], 0, 0
    for size, rank in zip(sizes, ranks, strict=True):
        places.append(_Place(row, size, first, rank))
        row, first = row + size, first + rank + -rank % unit
    return tuple(places)


def _rank_of(places: Sequence[_Place]) -> int:
    """R, including one column of B for the biases."""
    columns = places[-1].first + places[-1].rank + 1
    return columns + -columns % UPDATE_MULTIPLE
