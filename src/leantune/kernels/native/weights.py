"""Frozen weights in the forms in which the kernels multiply them: bf16 in blocks, and int8.

In int8 rows of activations and rows of W are rounded, each with a scale of its own (Dettmers et al., 2022, LLM.int8,
arXiv 2208.07339, vector-wise quantisation), and their products are summed exactly (`int8.c`). The backward pass
multiplies rows of the gradient with columns of W in the same way.

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
from leantune.kernels.native.library import call, mirrors
from leantune.kernels.native.multi_lora import TextUpdates

WIDTH_MULTIPLE = 16
"""D and F: columns that the kernels take at once."""
SIDE, STEP = 32, 64
"""What F and D of a rounded weight are filled up to: ``tiles.h``."""

UPDATE_MULTIPLE = 32
"""Numbers of bf16 that a product sums over at once: ``DEPTH`` of ``vectors.h``."""

_Pointer, _Count = ctypes.c_void_p, ctypes.c_int64


@mirrors("int8_weight")
class RoundingArguments(ctypes.Structure):
    """``int8_weight`` of ``csrc/kernels.h``."""

    _fields_ = (
        ("w", _Pointer),
        *((name, _Count) for name in ("F", "D")),
        *((name, _Pointer) for name in ("panels", "scales")),
        ("num_threads", _Count),
    )


@mirrors("matrix")
class MatrixArgument(ctypes.Structure):
    """``matrix`` of ``csrc/kernels.h``."""

    _fields_ = (
        *((name, _Pointer) for name in ("panels", "scales")),
        *((name, _Count) for name in ("rows", "width")),
    )


@mirrors("product")
class ProductArguments(ctypes.Structure):
    """``product`` of ``csrc/kernels.h``."""

    _fields_ = (
        ("x", _Pointer),
        ("T", _Count),
        ("first", MatrixArgument),
        *((name, _Pointer) for name in ("gelu_bias", "pre_gelu")),
        ("takes_slope", _Count),
        ("last", MatrixArgument),
        *((name, _Pointer) for name in ("bias", "low", "up")),
        ("R", _Count),
        ("out", _Pointer),
        ("adds", _Count),
        ("num_threads", _Count),
    )


Factors = tuple[Tensor, Tensor]
"""Factors in bf16 of what is added to a product: ``(T, R)``, with rows of any numbers up to a multiple of `SIDE`, and
``(F, R)``; R is a multiple of `UPDATE_MULTIPLE`."""


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """A matrix ``(F, D)`` whose rows are rounded, in the order in which the kernel multiplies it."""

    shape: tuple[int, int]
    """F, D."""
    panels: Tensor
    """Bytes of all rows: F times D, both filled up."""
    scales: Tensor
    """``(F,)`` fp32: what a byte of the row counts."""

    @classmethod
    def of(cls, matrix_FD: Tensor) -> Int8Matrix:
        """Round a bf16 matrix; F and D are multiples of 16."""
        matrix_FD = _checked(matrix_FD)
        rows, width = matrix_FD.shape
        panels = torch.empty((rows + -rows % SIDE) * (width + -width % STEP), dtype=torch.uint8)
        scales = torch.empty(rows)
        arguments = RoundingArguments(
            w=matrix_FD.data_ptr(),
            F=rows,
            D=width,
            panels=panels.data_ptr(),
            scales=scales.data_ptr(),
            num_threads=torch.get_num_threads(),
        )
        call("round_weight", arguments)
        return cls((rows, width), panels, scales)

    def times(
        self,
        x_TD: Tensor,
        bias_F: Tensor | None = None,
        *,
        update: Factors | None = None,
        onto: Tensor | None = None,
    ) -> Tensor:
        """The product with each row of x, rounded, plus bias, bf16, and update: ``(T, D)`` bf16 to ``(T, F)`` bf16; in
        the memory of ``onto`` and added to it, if that is given.
        """
        x_TD = _checked(x_TD)
        rows, width = x_TD.shape
        assert width == self.shape[1], f"{width} columns for a matrix of {self.shape[1]}"
        out = torch.empty(rows, self.shape[0], dtype=torch.bfloat16) if onto is None else onto
        arguments = ProductArguments(
            x=x_TD.data_ptr(),
            T=rows,
            last=self.as_argument(),
            bias=_address(bias_F, self.shape[:1]),
            out=_address(out, (rows, self.shape[0])),
            adds=onto is not None,
            num_threads=torch.get_num_threads(),
        )
        if update is not None:
            low, up = update
            rank = up.shape[1]
            assert rank % UPDATE_MULTIPLE == 0, rank
            arguments.low = _address(low, (rows + -rows % SIDE, rank))
            arguments.up, arguments.R = _address(up, (self.shape[0], rank)), rank
        call("multiply_quantized", arguments)
        return out

    def as_argument(self) -> MatrixArgument:
        """What the kernels are given."""
        return MatrixArgument(self.panels.data_ptr(), self.scales.data_ptr(), *self.shape)


def _address(tensor: Tensor | None, shape: tuple[int, ...]) -> int | None:
    """Where the kernel finds a tensor of bf16; None, NULL, without one."""
    if tensor is None:
        return None
    assert (tensor.dtype, tensor.shape, tensor.is_contiguous()) == (torch.bfloat16, shape, True)
    return tensor.data_ptr()


def _checked(x: Tensor) -> Tensor:
    """``x`` as the kernels read memory: rows of bf16, one behind the other."""
    assert (x.dtype, x.dim(), x.shape[1] % WIDTH_MULTIPLE) == (torch.bfloat16, 2, 0)
    return x.contiguous()


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
        ("updates", _Pointer),
    )


@dataclass(frozen=True, slots=True)
class Bf16Matrix:
    """W in bf16, in the order in which the kernels multiply it, and the bias."""

    panels: Tensor
    """All numbers of W ``(F, D)``, bf16."""
    bias: Tensor
    """``(F,)`` bf16."""
    shape: tuple[int, int]
    """F, D."""

    @classmethod
    def of(cls, weight_FD: Tensor, bias_F: Tensor) -> Bf16Matrix:
        """Lay out contiguous bf16; F and D are multiples of 32."""
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

    def as_argument(self, updates: TextUpdates | None) -> LayerArgument:
        """What the kernels are given, with what is added for each text; ``updates`` must live as long."""
        rows, width = self.shape
        return LayerArgument(
            panels=self.panels.data_ptr(),
            bias=self.bias.data_ptr(),
            rows=rows,
            width=width,
            updates=None if updates is None else ctypes.addressof(updates),
        )


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
    def bf16(self) -> Bf16Matrix:
        """W for products in bf16."""
        bias = self.bias if self.bias is not None else self.weight.new_zeros(len(self.weight))
        return Bf16Matrix.of(self.weight, bias)

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
