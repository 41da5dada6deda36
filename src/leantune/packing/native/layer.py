"""A layer of BERT's kind in int8 as one graph node and, each way, as one call (`layer.c`): with a call for every kernel
a quarter of a step of MiniLM was Python between them.

Shape letters: T packed tokens, S texts, N heads, D model width, F width between the layers of the feed-forward block.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from leantune.packing.native.adapter import AdapterForward, Projections
from leantune.packing.native.attention import AttentionArguments
from leantune.packing.native.attention_block import AttentionBlock
from leantune.packing.native.feed_forward import FeedForward
from leantune.packing.native.library import call
from leantune.packing.native.norm import NormArguments, NormOfSum
from leantune.packing.native.rounded import Int8Weight, MatrixArgument, blocks_of

_Pointer = ctypes.c_void_p
_MATRICES = ("projected", "behind", "first", "last")


class _Arguments(ctypes.Structure):
    """``layer`` of ``layer.c``, field by field."""

    _fields_ = (
        ("down", AdapterForward),
        ("heads", AttentionArguments),
        *((name, NormArguments) for name in ("norm", "last_norm")),
        *((name, MatrixArgument) for name in _MATRICES),
        *((name, _Pointer) for name in ("gelu_bias", "qkv", "before", "scratch", "grad_out")),
        ("gradients", Projections),
        *((f"{name}_back", MatrixArgument) for name in _MATRICES),
        *((name, _Pointer) for name in ("grad_qkv", "grad_heads", "grad_x")),
        ("wants_x", ctypes.c_int64),
    )


class _Kept(NamedTuple):
    """What the kernels keep for the backward pass; ``rows`` are T, or S of first tokens."""

    A: Tensor
    """This and the next three: see `Saved`."""
    B: Tensor
    dropped: Tensor
    low: Tensor
    qkv: Tensor
    """``(T, 3 D)``."""
    heads: Tensor
    """``(T, D)``."""
    stats: Tensor
    """``(2, N, T)`` fp32."""
    total: Tensor
    """``(rows, D)``, before the first norm."""
    moments: Tensor
    """``(rows, 2)`` fp32, of it."""
    before: Tensor
    """Before GELU, as `blocks_of` has it."""
    last_total: Tensor
    last_moments: Tensor


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

    def forward(self, x_TD: Tensor) -> tuple[Tensor, _Arguments, _Kept]:
        """The layer's output, what the kernels were given, and what they kept."""
        block, (num_tokens, width) = self.block, x_TD.shape
        only_first = block.attention.only_first
        rows = len(block.attention.plan.lengths) if only_first else num_tokens
        num_heads = width // block.head_width
        down, saved = block.joint.down(x_TD)
        arguments = _Arguments(
            down=down,
            heads=block.attention.arguments(num_tokens, num_heads, block.head_width),
            norm=block.norm.arguments(rows, width),
            last_norm=self.norm.arguments(rows, width),
            gelu_bias=self.gelu_bias.data_ptr(),
        )
        for name, weight in zip(_MATRICES, self.weights, strict=True):
            setattr(arguments, name, weight.by_row.as_argument())
        kept = _Kept(
            *saved,
            qkv=x_TD.new_empty(num_tokens, 3 * width),
            heads=x_TD.new_empty(num_tokens, width),
            stats=torch.empty(2, num_heads, num_tokens),
            total=x_TD.new_empty(rows, width),
            moments=torch.empty(rows, 2),
            before=x_TD.new_empty(blocks_of(rows, len(self.gelu_bias))),
            last_total=x_TD.new_empty(rows, width),
            last_moments=torch.empty(rows, 2),
        )
        point_to(arguments, kept)
        out, scratch = x_TD.new_empty(rows, width), x_TD.new_empty(2, rows, width)
        arguments.last_norm.out, arguments.scratch = out.data_ptr(), scratch.data_ptr()
        call("layer_forward", arguments)
        return out, arguments, kept

    def backward(
        self,
        arguments: _Arguments,
        kept: _Kept,
        grad_out: Tensor,
        wants_factors: Sequence[bool],
        *,
        wants_x: bool,
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """The gradients of x and of the factors of the adapters that are wanted."""
        grad_out, x = grad_out.contiguous(), kept.dropped
        grads = self.block.joint.gradients(wants_factors)
        grad_qkv, (grad_heads, grad_x) = torch.empty_like(kept.qkv), (torch.empty_like(x) for _ in range(2))
        scratch = x.new_empty(2, *grad_out.shape)
        point_to(arguments, kept)
        for name, weight in zip(_MATRICES, self.weights, strict=True):
            setattr(arguments, f"{name}_back", weight.by_column.as_argument())
        arguments.gradients = self.block.joint.described(grads)
        arguments.grad_out, arguments.grad_x = grad_out.data_ptr(), grad_x.data_ptr()
        arguments.grad_qkv, arguments.grad_heads = grad_qkv.data_ptr(), grad_heads.data_ptr()
        arguments.scratch, arguments.wants_x = scratch.data_ptr(), wants_x
        call("layer_backward", arguments)
        return grad_x if wants_x else None, grads


def point_to(arguments: _Arguments, kept: _Kept) -> None:
    """Tell the kernels where it is, which a backward pass must not take for granted: a graph that computes again what
    it did not keep has it in another place.
    """
    A, B, dropped, low, qkv, heads, stats, total, moments, before, last_total, last_moments = (
        tensor.data_ptr() for tensor in kept
    )
    down, norm, last_norm = arguments.down, arguments.norm, arguments.last_norm
    down.A, down.B, down.low = A, B, low
    if down.dropped is None:
        down.x = dropped
    else:
        down.dropped = dropped
    arguments.qkv, arguments.before = qkv, before
    arguments.heads.out, arguments.heads.stats = heads, stats
    norm.sum, norm.stats = total, moments
    last_norm.sum, last_norm.stats = last_total, last_moments


class _RoundedLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, layer: RoundedLayer, *factors: Tensor | None) -> Tensor:
        out, ctx.arguments, kept = layer.forward(x_TD)
        ctx.save_for_backward(*kept, *factors)  # those of the adapters: what changes in them is noticed
        ctx.layer = layer
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        wants_x, _, *wants_factors = ctx.needs_input_grad
        kept = _Kept(*ctx.saved_tensors[: len(_Kept._fields)])
        grad_x, grads = ctx.layer.backward(
            ctx.arguments, kept, grad_outputs[0], wants_factors, wants_x=wants_x
        )
        return grad_x, None, *grads
