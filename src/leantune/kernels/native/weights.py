"""Frozen weights in the formats that the kernels multiply: bf16 in blocks, and int8.

In int8, rows of activations and rows of W are rounded, each with its own scale (Dettmers et al., 2022, LLM.int8,
arXiv 2208.07339, vector-wise quantisation), and their products are summed exactly (`int8.c`). The backward pass
multiplies rows of the gradient with columns of W in the same way.

T tokens, D width of the input, F width of the output.
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
"""D and F must be multiples of this number of columns that the kernels take at once."""
SIDE, STEP = 32, 64
"""Multiples that F and D of a rounded weight are padded to; see ``tiles.h``."""

UPDATE_MULTIPLE = 32
"""Number of bf16 values that a product sums over at once; ``DEPTH`` of ``vectors.h``."""

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
"""Factors in bf16 of an update that is added to a product: ``(T, R)`` and ``(F, R)``.

The first is padded with arbitrary rows to a multiple of `SIDE`; R is a multiple of `UPDATE_MULTIPLE`."""


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """A matrix ``(F, D)`` with rounded rows, in the order in which the kernel multiplies it."""

    shape: tuple[int, int]
    """F, D."""
    panels: Tensor
    """Bytes of all rows: F times D, both padded."""
    scales: Tensor
    """``(F,)`` fp32 scales of the rows' bytes."""

    @classmethod
    def of(cls, matrix_FD: Tensor) -> Int8Matrix:
        """Round a bf16 matrix; F and D must be multiples of 16."""
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
        """The product with each rounded row of x, plus bias and update: ``(T, D)`` bf16 to ``(T, F)`` bf16.

        If ``onto`` is given, the result is added to it in place.
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
        """Arguments for the kernels."""
        return MatrixArgument(self.panels.data_ptr(), self.scales.data_ptr(), *self.shape)


def _address(tensor: Tensor | None, shape: tuple[int, ...]) -> int | None:
    """Address of a bf16 tensor for the kernel; None, that is NULL, without a tensor."""
    if tensor is None:
        return None
    assert (tensor.dtype, tensor.shape, tensor.is_contiguous()) == (torch.bfloat16, shape, True)
    return tensor.data_ptr()


def _checked(x: Tensor) -> Tensor:
    """``x`` in the memory layout that the kernels need: contiguous rows of bf16."""
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
    """All values of W ``(F, D)``, bf16."""
    bias: Tensor
    """``(F,)`` bf16."""
    shape: tuple[int, int]
    """F, D."""

    @classmethod
    def of(cls, weight_FD: Tensor, bias_F: Tensor) -> Bf16Matrix:
        """Lay out a contiguous bf16 weight; F and D must be multiples of 32."""
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
        """Arguments for the kernels, with the updates of each text; ``updates`` must live as long."""
        rows, width = self.shape
        return LayerArgument(
            panels=self.panels.data_ptr(),
            bias=self.bias.data_ptr(),
            rows=rows,
            width=width,
            updates=None if updates is None else ctypes.addressof(updates),
        )


class PackedWeight:
    """Frozen linear layers with the same input as one W ``(F, D)`` and b ``(F,)``, bf16.

    Each format is made when first needed. The weights of several layers move into one buffer, and the layers then hold
    views of it.

    Args:
        layers: layers with weights ``(., D)`` in bf16, F rows in total; either all have a bias or none.
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
        """W with rounded rows."""
        return Int8Matrix.of(self.weight)

    @cached_property
    def int8_transposed(self) -> Int8Matrix:
        """W transposed, with rounded rows, that is columns of W."""
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
        """The gradient of x ``(T, D)``; if ``onto`` is given, it is added to that in place."""
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
    """The frozen weights of an encoder layer; classifiers over the same encoder share them."""

    projections: PackedWeight
    """Query, key and value."""
    out_proj: PackedWeight
    up_proj: PackedWeight
    down_proj: PackedWeight
    is_plain: bool
    """Whether the blocks have the form of BERT's: norms after the sums, GELU, biases."""
    is_one_call: bool
    """Whether `layer.int8_layers` supports the form of this layer, attention included."""

    @classmethod
    def of(cls, layer: LayerLike) -> PackedLayer:
        """Pack the weights of ``layer``, which must not change afterwards."""
        (up,) = layer.up_projections
        rest = (layer.out_proj, up, layer.down_proj)
        out_proj, up_proj, down_proj = (PackedWeight([frozen(each)]) for each in rest)
        is_plain = (
            not (layer.norm_first or layer.is_gated)
            and layer.activation == "gelu"
            and all(isinstance(each, nn.Linear) and each.bias is not None for each in rest)
        )
        return cls(
            PackedWeight([frozen(each) for each in layer.projections]),
            out_proj,
            up_proj,
            down_proj,
            is_plain=is_plain,
            is_one_call=(
                is_plain
                and layer.rotary is None
                and layer.window.is_whole
                and layer.relative_projections == (None, None)
            ),
        )
