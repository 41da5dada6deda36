"""A layer of BERT's kind in int8 as one graph node and, each way, as one call (`layer.c`): with a call for every kernel
a quarter of a step of MiniLM was Python between them.

Shape letters: T packed tokens, S texts, N heads, D model width, F width between the layers of the feed-forward block.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from leantune.packing.native.adapter import AdapterForward, Projections
from leantune.packing.native.attention import AttentionArguments
from leantune.packing.native.attention_block import AttentionBlock
from leantune.packing.native.feed_forward import FeedForward
from leantune.packing.native.library import call
from leantune.packing.native.norm import NormArguments, NormOfSum
from leantune.packing.native.rounded import Int8Weight, MatrixArgument

_Pointer = ctypes.c_void_p
_MATRICES = ("projected", "behind", "first", "last")


class _Arguments(ctypes.Structure):
    """``layer`` of ``layer.c``, field by field."""

    _fields_ = (
        ("down", AdapterForward),
        ("heads", AttentionArguments),
        *((name, NormArguments) for name in ("norm", "last_norm")),
        *((name, MatrixArgument) for name in _MATRICES),
        *((name, _Pointer) for name in ("gelu_bias", "kept")),
        ("kept_bytes", ctypes.c_int64),
        ("grad_out", _Pointer),
        ("gradients", Projections),
        *((f"{name}_back", MatrixArgument) for name in _MATRICES),
        ("grad_x", _Pointer),
        ("wants_x", ctypes.c_int64),
    )


@dataclass(frozen=True, slots=True)
class RoundedLayer:
    """Attention and feed-forward block, each with its residual and norm."""

    block: AttentionBlock
    """With weights in int8."""
    weights: tuple[Int8Weight, ...]
    """In the order of `_MATRICES`."""
    gelu_bias: Tensor
    """``(F,)``."""
    norm: NormOfSum
    """Behind the feed-forward block, with the bias of its last layer."""

    @classmethod
    def of(cls, block: AttentionBlock, feed_forward: FeedForward, x: Tensor) -> RoundedLayer | None:
        """Both blocks as one for ``x``; None where a product is not in int8, or all heads are not as wide as x."""
        projected, behind = block.joint.weight, block.behind
        if not (isinstance(projected, Int8Weight) and isinstance(behind, Int8Weight)):
            return None
        if behind.weights[0].shape[1] != x.shape[-1] or not feed_forward.is_rounded(x):
            return None
        first, last = feed_forward.layers
        weights = (projected, behind, first.rounded, last.rounded)
        return cls(block, weights, first.bias, feed_forward.norm())

    def __call__(self, x: Tensor) -> Tensor:
        """``(1, T, D)`` to ``(1, T, D)``, or ``(1, S, D)`` as `AttentionBlock`."""
        factors = self.block.joint.factors()
        out: Tensor = _RoundedLayer.apply(x.flatten(0, 1).contiguous(), self, *factors)  # type: ignore[no-untyped-call]
        return out[None]

    def forward(self, x_TD: Tensor) -> tuple[Tensor, _Arguments, Tensor]:
        """The layer's output, what the kernels were given, and the memory of what they keep for the backward pass."""
        block, (num_tokens, width) = self.block, x_TD.shape
        only_first = block.attention.only_first
        rows = len(block.attention.plan.lengths) if only_first else num_tokens
        arguments = _Arguments(
            down=block.joint.arguments(x_TD),
            heads=block.attention.arguments(num_tokens, width // block.head_width, block.head_width),
            norm=block.norm.arguments(rows, width),
            last_norm=self.norm.arguments(rows, width),
            gelu_bias=self.gelu_bias.data_ptr(),
        )
        for name, weight in zip(_MATRICES, self.weights, strict=True):
            setattr(arguments, name, weight.by_row.as_argument())
        call("layer_measure", arguments)
        kept, out = torch.empty(arguments.kept_bytes, dtype=torch.uint8), x_TD.new_empty(rows, width)
        arguments.kept, arguments.last_norm.out = kept.data_ptr(), out.data_ptr()
        call("layer_forward", arguments)
        return out, arguments, kept

    def backward(
        self,
        arguments: _Arguments,
        grad_out: Tensor,
        grad_x: Tensor,
        wants_factors: Sequence[bool],
    ) -> list[Tensor | None]:
        """The gradients of those factors of the adapters that are wanted; that of x goes to ``grad_x``, if
        ``arguments`` say so.
        """
        grads = self.block.joint.gradients(wants_factors)
        for name, weight in zip(_MATRICES, self.weights, strict=True):
            setattr(arguments, f"{name}_back", weight.by_column.as_argument())
        arguments.gradients = self.block.joint.described(grads)
        arguments.grad_out, arguments.grad_x = grad_out.data_ptr(), grad_x.data_ptr()
        call("layer_backward", arguments)
        return grads


class _RoundedLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, layer: RoundedLayer, *factors: Tensor | None) -> Tensor:
        out, ctx.arguments, kept = layer.forward(x_TD)
        x = None if layer.block.joint.drops else x_TD  # else what is left of it is kept
        ctx.save_for_backward(kept, x, *factors)  # those of the adapters: what changes in them is noticed
        ctx.layer, ctx.shape = layer, x_TD.shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        wants_x, _, *wants_factors = ctx.needs_input_grad
        (kept, x), arguments = ctx.saved_tensors[:2], ctx.arguments
        # a graph that computes again what it did not keep has it in another place
        arguments.kept, arguments.down.x = kept.data_ptr(), None if x is None else x.data_ptr()
        arguments.wants_x, grad_out = wants_x, grad_outputs[0].contiguous()
        grad_x = grad_out.new_empty(ctx.shape)
        grads = ctx.layer.backward(arguments, grad_out, grad_x, wants_factors)
        return grad_x if wants_x else None, None, *grads
