"""Frozen weights in the forms in which the kernels multiply them.

T tokens, D width of the input, F of the output.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leantune.kernels.interface import LayerLike, frozen
from leantune.kernels.native.int8_matrix import Factors, Int8Matrix
from leantune.kernels.native.library import call, mirrors

_Pointer, _Count = ctypes.c_void_p, ctypes.c_int64


@mirrors("dense_weight")
class WeightArgument(ctypes.Structure):
    """``dense_weight`` of ``csrc/kernels.h``."""

    _fields_ = (
        ("w", _Pointer),
        *((name, _Count) for name in ("F", "D")),
        ("panels", _Pointer),
        ("num_threads", _Count),
    )


@mirrors("dense_layer")
class LayerArgument(ctypes.Structure):
    """``dense_layer`` of ``csrc/kernels.h``."""

    _fields_ = (
        *((name, _Pointer) for name in ("panels", "bias")),
        *((name, _Count) for name in ("rows", "width")),
    )


@dataclass(frozen=True, slots=True)
class Panels:
    """W in bf16, in the order in which the kernels multiply it, and the bias."""

    panels: Tensor
    """All numbers of W ``(F, D)``, bf16."""
    bias: Tensor
    """``(F,)`` bf16."""
    shape: tuple[int, int]
    """F, D."""

    @classmethod
    def of(cls, weight_FD: Tensor, bias_F: Tensor) -> Panels:
        """Of contiguous bf16; F and D are multiples of 32."""
        rows, width = weight_FD.shape
        panels = torch.empty(rows * width, dtype=torch.bfloat16)
        arguments = WeightArgument(
            w=weight_FD.data_ptr(),
            F=rows,
            D=width,
            panels=panels.data_ptr(),
            num_threads=torch.get_num_threads(),
        )
        call("lay_out_weight", arguments)
        return cls(panels, bias_F, (rows, width))

    def as_argument(self) -> LayerArgument:
        """What the kernels are given."""
        rows, width = self.shape
        return LayerArgument(panels=self.panels.data_ptr(), bias=self.bias.data_ptr(), rows=rows, width=width)


class PackedWeight:
    """Frozen linear layers of one input as one W ``(F, D)`` and b ``(F,)``, bf16; each form is made when first wanted.

    The weights of several layers move into one buffer, of which the layers then hold views.

    Args:
        layers: with weights ``(., D)`` in bf16, F rows in all; all of them have a bias, or none.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        assert len(biases) in (0, len(layers)), "some of the layers have a bias and some have none"
        if len(layers) > 1:
            _share_one_buffer(layers)
        whole = sum(layer.out_features for layer in layers), layers[0].in_features
        self.weight = layers[0].weight.detach().as_strided(whole, (whole[1], 1))
        self.bias = torch.cat(biases) if biases else None

    @cached_property
    def int8(self) -> Int8Matrix:
        """W, each row rounded."""
        return Int8Matrix.of(self.weight)

    @cached_property
    def int8_transposed(self) -> Int8Matrix:
        """W transposed, each row of that, a column of W, rounded."""
        return Int8Matrix.of(self.weight.t())

    @cached_property
    def panels(self) -> Panels:
        """W for products in bf16."""
        bias = self.bias if self.bias is not None else self.weight.new_zeros(len(self.weight))
        return Panels.of(self.weight, bias)

    def forward(
        self, x_TD: Tensor, bias: Tensor | None = None, *, quantized: bool, update: Factors | None = None
    ) -> Tensor:
        """``W x``, plus ``bias`` and an update for each token: ``(T, D)`` to ``(T, F)``."""
        if quantized:
            return self.int8.times(x_TD, bias, update=update)
        out = F.linear(x_TD, self.weight, bias)
        return out if update is None else out.addmm_(update[0][: len(x_TD)], update[1].t())

    def backward(self, grad_TF: Tensor, *, quantized: bool, onto: Tensor | None = None) -> Tensor:
        """The gradient of x ``(T, D)``, in the memory of ``onto`` and added to it, if that is given."""
        if quantized:
            return self.int8_transposed.times(grad_TF, onto=onto)
        return grad_TF @ self.weight if onto is None else onto.addmm_(grad_TF, self.weight)


def _share_one_buffer(layers: Sequence[nn.Linear]) -> None:
    whole = torch.cat([layer.weight.detach() for layer in layers])
    parts = torch.split(whole, [layer.out_features for layer in layers])
    for layer, part in zip(layers, parts, strict=True):
        layer.weight = nn.Parameter(part, requires_grad=False)


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """The frozen weights of an encoder layer; classifiers over one encoder share them."""

    projections: PackedWeight
    """Query, key and value."""
    out_proj: PackedWeight
    up_proj: PackedWeight
    down_proj: PackedWeight
    is_one_call: bool
    """Whether the layer has the form that `layer.int8_layers` computes."""

    @classmethod
    def of(cls, layer: LayerLike) -> PackedLayer:
        """Weights that do not change any more."""
        rest = (layer.out_proj, layer.up_proj, layer.down_proj)
        out_proj, up_proj, down_proj = (PackedWeight([frozen(each)]) for each in rest)
        return cls(
            PackedWeight([frozen(each) for each in layer.projections]),
            out_proj,
            up_proj,
            down_proj,
            is_one_call=(
                not (layer.norm_first or layer.is_gated)
                and layer.activation == "gelu"
                and layer.rotary_base is None
                and layer.window is None
                and all(isinstance(each, nn.Linear) and each.bias is not None for each in rest)
            ),
        )
