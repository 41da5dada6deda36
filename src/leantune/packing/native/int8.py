"""Frozen linear layers in int8 while training: twice the rate of bf16 where a processor has VNNI or AMX.

Both passes multiply rounded rows (`rounded.py`); int8 gradients of inputs train as well as others (Wortsman et al.,
2023, SwitchBack, arXiv 2304.13013), and frozen weights want none. Without a gradient, in evaluation and prediction, the
layers compute in bf16 as ever, unless they were made with ``predicts``.

Shape letters: T tokens, D width of the input, F of the output.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from leantune.packing.native.library import kernels, serves
from leantune.packing.native.rounded import WIDTH_MULTIPLE, Int8Weight


class Int8Linear(nn.Linear):
    """Drop-in for a frozen ``nn.Linear``, with the same parameters; its weight is there in int8, too.

    Args:
        base: the layer.
        predicts: whether it computes in int8 without a gradient, too.
    """

    def __init__(self, base: nn.Linear, *, predicts: bool = False) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.rounded, self.predicts = Int8Weight([self.weight]), predicts
        self.joint: Int8Weight | None = None

    def rounds(self, x: Tensor) -> bool:
        """Whether the product with ``x`` is in int8, here and now."""
        return x.dtype == torch.bfloat16 and (self.predicts or torch.is_grad_enabled())

    def forward(self, input: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., F)``."""
        return _product(input, self, self.bias) if self.rounds(input) else super().forward(input)


def rounding_of(layers: Sequence[nn.Module], x: Tensor) -> list[Int8Linear] | None:
    """All ``layers``, if each rounds ``x``; else None."""
    found = [layer for layer in layers if isinstance(layer, Int8Linear) and layer.rounds(x)]
    return found if len(found) == len(layers) else None


def rounded_as_one(layers: Sequence[Int8Linear]) -> Int8Weight:
    """The weights of layers of one input as one, whose outputs stand side by side; the first layer keeps it."""
    first, *others = layers
    if not others:
        return first.rounded
    weights = [layer.weight for layer in layers]
    if first.joint is None or not all(map(operator.is_, first.joint.weights, weights)):
        first.joint = Int8Weight(weights)
    return first.joint


def why_no_int8() -> str:
    """What this machine lacks for products in int8; empty if it has all."""
    library = kernels().library
    if library is None:
        return f"no native kernels: {kernels().reason}"
    return (
        "" if library.multiplies_bytes() else f"no fast products of bytes in the kernels for {library.level}"
    )


def is_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether ``layer`` is a linear layer as torch or this file computes it, and none of somebody's own."""
    return type(layer) in (nn.Linear, Int8Linear)


def product(x: Tensor, layer: nn.Linear) -> Tensor:
    """``W x`` without the bias, ``(..., D)`` to ``(..., F)``."""
    if isinstance(layer, Int8Linear) and layer.rounds(x):
        return _product(x, layer, None)
    return F.linear(x, layer.weight)


def _product(x: Tensor, layer: Int8Linear, bias: Tensor | None) -> Tensor:
    flat = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled():
        out: Tensor = _Rounded.apply(flat, layer.rounded, bias)  # type: ignore[no-untyped-call]
    else:
        out = layer.rounded.forward(flat, bias)
    return out.view(*x.shape[:-1], -1)


def product_side_by_side(x: Tensor, layers: Sequence[Int8Linear]) -> tuple[Tensor, ...]:
    """What each of ``layers`` makes of ``x``, without a gradient: one product, x rounded once. All have a bias."""
    bias = torch.cat([layer.bias for layer in layers])
    out = rounded_as_one(layers).forward(x.reshape(-1, x.shape[-1]), bias).view(*x.shape[:-1], -1)
    return torch.split(out, [layer.out_features for layer in layers], dim=-1)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight: Int8Weight, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return weight.forward(x_TD, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return ctx.weight.backward(grad_outputs[0]), None, None


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
