"""Products with frozen weights in int8 while training: twice the rate of bf16 where a processor has VNNI or AMX.

Rows of activations and rows of W are rounded to int8, each with a scale of its own (Dettmers et al., 2022, LLM.int8,
arXiv 2208.07339, vector-wise quantisation), and their products are summed exactly. The backward pass multiplies rows of
the gradient with columns of W in the same way; int8 gradients of inputs train as well as others (Wortsman et al., 2023,
SwitchBack, arXiv 2304.13013), and frozen weights want none.

Without a gradient, in evaluation and prediction, the layers compute in bf16 as ever, unless they were made with
``predicts``. Torch's product of int8 is a private operator, which torchao builds on, too; where it is missing or not
exact there are no such layers.

Shape letters: T tokens, D width of the input, F of the output.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leantune.packing.native.library import call, kernels, serves
from leantune.packing.side_by_side import as_one, lie_side_by_side

WIDTH_MULTIPLE = 16
"""D and F: columns that the kernels take at once."""

_Pointer, _Count = ctypes.c_void_p, ctypes.c_int64


class _Quantise(ctypes.Structure):
    """``quantise`` of ``int8.c``, field by field."""

    _fields_ = (
        ("x", _Pointer),
        *((name, _Count) for name in ("num_rows", "width")),
        *((name, _Pointer) for name in ("out", "scales")),
        ("num_threads", _Count),
    )


class _Dequantise(ctypes.Structure):
    """``dequantise`` of ``int8.c``, field by field."""

    _fields_ = (
        *((name, _Pointer) for name in ("sums", "scales", "column_scales", "bias")),
        *((name, _Count) for name in ("num_rows", "width")),
        ("out", _Pointer),
        ("num_threads", _Count),
    )


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """A frozen W, rounded by rows for the one pass and by columns for the other."""

    by_row: Tensor
    """``(F, D)`` int8."""
    row_scales: Tensor
    """``(F,)`` fp32."""
    by_column: Tensor
    """``(F, D)`` int8."""
    column_scales: Tensor
    """``(D,)`` fp32."""

    @classmethod
    def of(cls, weight_FD: Tensor) -> Int8Weight:
        """Round a bf16 weight ``(F, D)``; F and D are multiples of 16."""
        with torch.inference_mode(False), torch.no_grad():  # else no later backward pass could keep it
            by_column, column_scales = _quantised(weight_FD.t())
            return cls(*_quantised(weight_FD), by_column.t().contiguous(), column_scales)

    def part(self, begin: int, end: int) -> Int8Weight:
        """Of rows ``begin:end``, in the same memory."""
        rows = slice(begin, end)
        return Int8Weight(self.by_row[rows], self.row_scales[rows], self.by_column[rows], self.column_scales)

    def forward(self, x_TD: Tensor, bias_F: Tensor | None = None) -> Tensor:
        """``W x + b`` for each token: ``(T, D)`` bf16 to ``(T, F)`` bf16; b fp32."""
        x, scales_T = _quantised(x_TD)
        return _dequantised(torch._int_mm(x, self.by_row.t()), scales_T, self.row_scales, bias_F)

    def backward(self, grad_TF: Tensor) -> Tensor:
        """The gradient of x ``(T, D)`` bf16, from that of the output ``(T, F)`` bf16."""
        grad, scales_T = _quantised(grad_TF)
        return _dequantised(torch._int_mm(grad, self.by_column), scales_T, self.column_scales)


class Int8Linear(nn.Linear):
    """Drop-in for a frozen ``nn.Linear``, with the same parameters; its weight is there in int8, too.

    Args:
        base: the layer.
        predicts: whether it computes in int8 without a gradient, too.
    """

    def __init__(self, base: nn.Linear, *, predicts: bool = False) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.rounded, self.predicts = Int8Weight.of(base.weight), predicts

    def rounds(self, x: Tensor) -> bool:
        """Whether the product with ``x`` is in int8, here and now."""
        return x.dtype == torch.bfloat16 and (self.predicts or torch.is_grad_enabled())

    def forward(self, input: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., F)``."""
        return _product(input, self, self.bias) if self.rounds(input) else super().forward(input)


def round_as_one(layers: Sequence[Int8Linear]) -> Int8Weight:
    """The weights of layers of one input as one, whose outputs stand side by side.

    The first call rounds them anew, with common scales of columns, and puts the parts into the layers.
    """
    parts = [layer.rounded for layer in layers]
    if not lie_side_by_side([part.by_row for part in parts], 0):
        whole, begin = Int8Weight.of(torch.cat([layer.weight for layer in layers])), 0
        for layer in layers:
            layer.rounded = whole.part(begin, begin + layer.out_features)
            begin += layer.out_features
        return whole
    return Int8Weight(
        by_row=as_one([part.by_row for part in parts], 0),
        row_scales=as_one([part.row_scales for part in parts], 0),
        by_column=as_one([part.by_column for part in parts], 0),
        column_scales=parts[0].column_scales,
    )


def why_no_int8() -> str:
    """What this machine lacks for products in int8; empty if it has all."""
    if kernels().library is None:
        return f"no native kernels: {kernels().reason}"
    if platform.machine() != "x86_64":
        return f"torch has no fast products in int8 for {platform.machine()}"
    return "" if _multiplies_exactly() else "the processor has no VNNI, or oneDNN is told not to use it"


@lru_cache(maxsize=1)
def _multiplies_exactly() -> bool:
    """Whether torch's product of int8 is right: without VNNI pairs are summed in 16 bits, which overflow."""
    if not hasattr(torch, "_int_mm"):
        return False
    x, w = (torch.full((64, 384), value, dtype=torch.int8) for value in (127, -127))
    return bool((torch._int_mm(x, w.t()) == -127 * 127 * 384).all())


def is_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether ``layer`` is a linear layer as torch or this file computes it, and none of somebody's own."""
    return type(layer) in (nn.Linear, Int8Linear)


def product(x: Tensor, layer: nn.Linear) -> Tensor:
    """``W x`` without the bias, ``(..., D)`` to ``(..., F)``."""
    if isinstance(layer, Int8Linear) and layer.rounds(x):
        return _product(x, layer, None)
    return F.linear(x, layer.weight)


def _product(x: Tensor, layer: Int8Linear, bias: Tensor | None) -> Tensor:
    flat: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), layer.rounded, bias)  # type: ignore[no-untyped-call]
    return flat.view(*x.shape[:-1], -1)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight: Int8Weight, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return weight.forward(x_TD, None if bias is None else bias.float())

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return ctx.weight.backward(grad_outputs[0]), None, None


def _quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of bf16 ``(rows, width)`` as int8, and the scale of each."""
    assert (x.dtype, x.shape[1] % WIDTH_MULTIPLE) == (torch.bfloat16, 0), (
        "the kernel reads memory as it is told"
    )
    x = x.contiguous()
    out, scales = torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x))
    arguments = _Quantise(
        x=x.data_ptr(),
        num_rows=len(x),
        width=x.shape[1],
        out=out.data_ptr(),
        scales=scales.data_ptr(),
        num_threads=torch.get_num_threads(),
    )
    call("quantise_rows", arguments)
    return out, scales


def _dequantised(sums: Tensor, scales: Tensor, column_scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """Sums of products ``(rows, width)`` as bf16."""
    out = torch.empty(sums.shape, dtype=torch.bfloat16)
    arguments = _Dequantise(
        sums=sums.data_ptr(),
        scales=scales.data_ptr(),
        column_scales=column_scales.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        num_rows=len(sums),
        width=sums.shape[1],
        out=out.data_ptr(),
        num_threads=torch.get_num_threads(),
    )
    call("dequantise_rows", arguments)
    return out


def use_int8_products(model: nn.Module, *, predicts: bool = False) -> bool:
    """Put `Int8Linear` in place of the frozen linear layers of ``model`` that the kernels serve.

    Returns:
        whether there are any; not where `why_no_int8` has a reason.
    """
    if why_no_int8():
        return False
    found = False
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and _can_round(layer):
            model.set_submodule(name, Int8Linear(layer, predicts=predicts))
            found = True
    return found


def _can_round(layer: nn.Linear) -> bool:
    widths = (layer.in_features, layer.out_features)
    is_frozen = not any(parameter.requires_grad for parameter in layer.parameters())
    return is_frozen and serves(layer.weight) and not any(width % WIDTH_MULTIPLE for width in widths)
