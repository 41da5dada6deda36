"""GELU of bf16 with the bias before it: one pass each way, in half the time of torch's erf (`gelu.c`).

T packed tokens, F width of the feed-forward layer.
"""

from __future__ import annotations

import ctypes
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from leantune.packing.native.feed_forward import FeedForward
from leantune.packing.native.int8 import is_linear, product
from leantune.packing.native.library import call, learns, mirrors, serves

WIDTH_MULTIPLE = 16
"""F: columns that the kernel takes at once."""


@mirrors("gelu")
class _Arguments(ctypes.Structure):
    """``gelu`` of ``csrc/kernels.h``, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "bias")),
        *((name, ctypes.c_int64) for name in ("num_rows", "width")),
        *((name, ctypes.c_void_p) for name in ("out", "grad_out", "grad_x")),
        ("num_threads", ctypes.c_int64),
    )


class NativeGelu(nn.Module):
    """Drop-in for transformers' ``GELUActivation``; the kernel where there is one."""

    def forward(self, x_TF: Tensor) -> Tensor:
        """Any shape."""
        return gelu(x_TF)


class GeluLayer(nn.Module):
    """Drop-in for transformers' ``BertIntermediate`` and its like, with the same children.

    The kernel adds the bias: torch fills the output of a product with it first, one pass more.

    Args:
        dense: to F; a frozen linear layer, or an adapted one.
        activation: `NativeGelu`.
    """

    def __init__(self, dense: nn.Module, activation: NativeGelu) -> None:
        super().__init__()
        self.dense, self.intermediate_act_fn = dense, activation
        self.block: FeedForward | None = None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., F)``; what came in, where the module behind computes for both."""
        if self.block is not None and self.block.computes(hidden_states):
            return hidden_states
        if bias_apart(self.dense) and serves(hidden_states):
            return gelu(product(hidden_states, self.dense), self.dense.bias)
        activated: Tensor = self.intermediate_act_fn(self.dense(hidden_states))
        return activated


def bias_apart(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether ``layer`` is a plain product plus a bias that another kernel may add, as it gets no gradient."""
    return is_linear(layer) and layer.bias is not None and not learns(layer.bias)


def gelu(x_TF: Tensor, bias_F: Tensor | None = None) -> Tensor:
    """GELU of ``x_TF + bias_F``, the exact form with erf; the bias gets no gradient."""
    if x_TF.shape[-1] % WIDTH_MULTIPLE or not serves(x_TF):
        return F.gelu(x_TF if bias_F is None else x_TF + bias_F)
    x_TF = x_TF.contiguous()
    if not torch.is_grad_enabled():
        return _forward(_arguments(x_TF, bias_F), x_TF)
    out: Tensor = _Gelu.apply(x_TF, bias_F)  # type: ignore[no-untyped-call]
    return out


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, bias)
        ctx.arguments = _arguments(x, bias)
        return _forward(ctx.arguments, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        x, _ = ctx.saved_tensors
        grad_out, grad_x = grad_outputs[0].contiguous(), torch.empty_like(x)
        arguments: _Arguments = ctx.arguments
        arguments.grad_out, arguments.grad_x = grad_out.data_ptr(), grad_x.data_ptr()
        call("gelu_backward", arguments)
        return grad_x, None


def _arguments(x: Tensor, bias: Tensor | None) -> _Arguments:
    return _Arguments(
        x=x.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        num_rows=x.numel() // x.shape[-1],
        width=x.shape[-1],
        num_threads=torch.get_num_threads(),
    )


def _forward(arguments: _Arguments, x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    arguments.out = out.data_ptr()
    call("gelu_forward", arguments)
    return out


def replace_gelu(model: nn.Module, layers: list[str]) -> None:
    """Put `NativeGelu` where ``model`` has the exact GELU of transformers, and `GeluLayer` in place of those
    modules of these names that have it.
    """
    from transformers.activations import GELUActivation

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is GELUActivation and child.act is F.gelu:
                setattr(parent, name, NativeGelu())
    for name in layers:
        layer: Any = model.get_submodule(name)
        if isinstance(layer.intermediate_act_fn, NativeGelu):
            model.set_submodule(name, GeluLayer(layer.dense, layer.intermediate_act_fn))
