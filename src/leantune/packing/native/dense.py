"""Linear layers without a gradient, and what comes behind them, some hundred rows at a time (`dense.c`).

In prediction and evaluation nothing between the layers of a feed-forward block has to be kept: it stays in the cache.
Where the processor has AMX this is faster than torch's products with passes between them; elsewhere torch computes.

Shape letters: T tokens, D width of the input, F of the output.
"""

from __future__ import annotations

import ctypes
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.weak import TensorWeakRef, WeakIdKeyDictionary

from leantune.packing.native.int8 import Int8Linear, is_linear
from leantune.packing.native.library import call, kernels, mirrors, serves
from leantune.packing.native.norm import Norm
from leantune.packing.side_by_side import as_one

WIDTH_MULTIPLE = 32
"""D and F: the sides of a block of products."""

_Pointer, _Count = ctypes.c_void_p, ctypes.c_int64


@mirrors("dense_weight")
class _Weight(ctypes.Structure):
    """``dense_weight`` of ``csrc/kernels.h``, field by field."""

    _fields_ = (
        ("w", _Pointer),
        *((name, _Count) for name in ("F", "D")),
        ("panels", _Pointer),
        ("num_threads", _Count),
    )


@mirrors("dense_layer")
class _Layer(ctypes.Structure):
    """``dense_layer`` of ``csrc/kernels.h``, field by field."""

    _fields_ = (
        *((name, _Pointer) for name in ("panels", "bias")),
        *((name, _Count) for name in ("rows", "width")),
    )


@mirrors("dense")
class _Arguments(ctypes.Structure):
    """``dense`` of ``csrc/kernels.h``, field by field."""

    _fields_ = (
        ("x", _Pointer),
        ("T", _Count),
        *((name, _Layer) for name in ("before", "last")),
        ("residual", _Pointer),
        ("norm", Norm),
        ("out", _Pointer),
        ("num_threads", _Count),
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """A tensor as it was: what is written to it is noticed, but for changes through ``.data`` and in inference mode."""

    tensor: TensorWeakRef
    address: int
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> _Source:
        return cls(TensorWeakRef(tensor), tensor.data_ptr(), _version_of(tensor))

    def is_still(self, tensor: Tensor) -> bool:
        return (
            self.tensor() is tensor
            and self.address == tensor.data_ptr()
            and self.version == _version_of(tensor)
        )


def _version_of(tensor: Tensor) -> int:
    """How often it was written to; an inference tensor does not count."""
    return 0 if tensor.is_inference() else tensor._version


@dataclass(frozen=True, slots=True)
class Panels:
    """Frozen layers of one input as one, in the order in which the kernel multiplies them."""

    panels: Tensor
    """All numbers of W ``(F, D)``, bf16."""
    bias: Tensor
    """``(F,)`` bf16."""
    shape: tuple[int, int]
    """F, D."""
    sources: tuple[_Source, ...]
    """The parameters they were made of."""

    @classmethod
    def of(cls, layers: Sequence[nn.Linear]) -> Panels:
        """From W ``(F, D)`` and b ``(F,)`` of each layer, bf16; F and D are multiples of 32."""
        weight_FD = as_one([layer.weight for layer in layers], 0).contiguous()
        rows, width = weight_FD.shape
        panels = torch.empty(rows * width, dtype=torch.bfloat16)
        arguments = _Weight(
            w=weight_FD.data_ptr(),
            F=rows,
            D=width,
            panels=panels.data_ptr(),
            num_threads=torch.get_num_threads(),
        )
        call("lay_out_weight", arguments)
        bias = torch.cat([layer.bias.detach() for layer in layers])
        sources = tuple(_Source.of(parameter) for layer in layers for parameter in (layer.weight, layer.bias))
        return cls(panels, bias, (rows, width), sources)

    def are_of(self, layers: Sequence[nn.Linear]) -> bool:
        """Whether they were made of the parameters of these layers, as they are now."""
        parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
        return len(parameters) == len(self.sources) and all(
            source.is_still(parameter) for source, parameter in zip(self.sources, parameters, strict=True)
        )

    def as_argument(self) -> _Layer:
        """What the kernel is given."""
        rows, width = self.shape
        return _Layer(panels=self.panels.data_ptr(), bias=self.bias.data_ptr(), rows=rows, width=width)


_PANELS: MutableMapping[Tensor, Panels] = WeakIdKeyDictionary()
"""By the first of the weights, as long as it lives: classifiers that share an encoder share them."""


def _panels_of(layers: Sequence[nn.Linear]) -> Panels:
    first = layers[0].weight
    known = _PANELS.get(first)
    if known is None or not known.are_of(layers):
        known = _PANELS[first] = Panels.of(layers)
    return known


def can_multiply(layers: Sequence[nn.Module], x: Tensor) -> TypeGuard[Sequence[nn.Linear]]:
    """Whether the kernel is for these layers and ``x``, here and now."""
    return (
        not torch.is_grad_enabled()
        and serves(x)
        and _blocks_are_fast()
        and all(_is_dense(layer, x) for layer in layers)
    )


def _blocks_are_fast() -> bool:
    library = kernels().library
    return library is not None and library.blocks_are_fast()


def _is_dense(layer: nn.Module, x: Tensor) -> bool:
    """Whether ``layer`` is frozen, of the type of ``x``, and computes in it."""
    if not is_linear(layer) or layer.bias is None or (isinstance(layer, Int8Linear) and layer.rounds(x)):
        return False
    is_frozen = not (layer.weight.requires_grad or layer.bias.requires_grad)
    widths = (layer.in_features, layer.out_features)
    return is_frozen and layer.weight.dtype == x.dtype and not any(width % WIDTH_MULTIPLE for width in widths)


def dense(x: Tensor, layers: Sequence[nn.Linear]) -> tuple[Tensor, ...]:
    """What each of ``layers`` makes of ``x``, by one product: ``(..., D)`` to ``(..., F)`` each, side by side."""
    panels = _panels_of(layers)
    out = _forward(x, panels, None, None, None)
    return torch.split(out, [layer.out_features for layer in layers], dim=-1)


def dense_and_norm(x: Tensor, layer: nn.Linear, residual: Tensor, norm: nn.LayerNorm) -> Tensor:
    """LayerNorm(W x + b + residual): ``(..., D)`` and ``(..., F)`` to ``(..., F)``."""
    return _forward(x, _panels_of([layer]), None, residual, norm)


def feed_forward(x: Tensor, first: nn.Linear, last: nn.Linear, norm: nn.LayerNorm) -> Tensor:
    """LayerNorm(last(GELU(first(x))) + x), the exact GELU: ``(..., D)`` to ``(..., D)``."""
    return _forward(x, _panels_of([last]), _panels_of([first]), x, norm)


def _forward(
    x: Tensor, last: Panels, before: Panels | None, residual: Tensor | None, norm: nn.LayerNorm | None
) -> Tensor:
    x, residual = x.contiguous(), None if residual is None else residual.contiguous()
    layer, width = last.as_argument(), (before or last).shape[1]
    assert x.shape[-1] == width, f"{x.shape[-1]} columns for a layer of {width}"
    out = x.new_empty(*x.shape[:-1], layer.rows)
    arguments = _Arguments(
        x=x.data_ptr(),
        T=x.numel() // x.shape[-1],
        before=_Layer() if before is None else before.as_argument(),
        last=layer,
        residual=None if residual is None else residual.data_ptr(),
        norm=Norm() if norm is None else Norm.of(norm),
        out=out.data_ptr(),
        num_threads=torch.get_num_threads(),
    )
    call("dense_forward", arguments)
    return out
