"""Layers of BERT's kind in int8 as one graph node and, each way, as one call (`layer.c`): with a call for every kernel
a quarter of a step of MiniLM was Python between them.

Shape letters: T packed tokens, S texts, N heads, D model width, F width between the layers of the feed-forward block.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from leantune.packing.native.adapter import AdapterForward, Projections
from leantune.packing.native.attention import AttentionArguments
from leantune.packing.native.attention_block import AttentionBlock
from leantune.packing.native.feed_forward import FeedForward
from leantune.packing.native.library import call, mirrors
from leantune.packing.native.norm import NormArguments, NormOfSum
from leantune.packing.native.rounded import Int8Weight, MatrixArgument

_Pointer = ctypes.c_void_p
_MATRICES = ("projected", "behind", "first", "last")


@mirrors("layer")
class _Arguments(ctypes.Structure):
    """``layer`` of ``csrc/kernels.h``, field by field."""

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


@mirrors("stack")
class _Stack(ctypes.Structure):
    """``stack`` of ``csrc/kernels.h``, field by field."""

    _fields_ = (("layers", ctypes.POINTER(ctypes.POINTER(_Arguments))), ("num_layers", ctypes.c_int64))

    @classmethod
    def of(cls, layers: Sequence[_Arguments]) -> _Stack:
        return cls((ctypes.POINTER(_Arguments) * len(layers))(*map(ctypes.pointer, layers)), len(layers))


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
        """Both blocks as one for ``x``, of which the second is in int8; None where the first is not, or where all heads
        are not as wide as x.
        """
        projected, behind = block.joint.weight, block.behind
        if not (isinstance(projected, Int8Weight) and isinstance(behind, Int8Weight)):
            return None
        if behind.weights[0].shape[1] != x.shape[-1]:
            return None
        first, last = feed_forward.layers
        weights = (projected, behind, first.rounded, last.rounded)
        return cls(block, weights, first.bias, feed_forward.norm())

    def arguments(self, x_TD: Tensor) -> _Arguments:
        """What the kernels are given to go forward, but for where ``x`` is and where they write."""
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
        return arguments

    def add_gradients(self, arguments: _Arguments, wants_factors: Sequence[bool]) -> list[Tensor | None]:
        """Tell the kernels to come back, too; returns memory for the gradients of the adapters' factors."""
        grads = self.block.joint.gradients(wants_factors)
        arguments.gradients = self.block.joint.described(grads)
        for name, weight in zip(_MATRICES, self.weights, strict=True):
            setattr(arguments, f"{name}_back", weight.by_column.as_argument())
        return grads


def through_layers(x: Tensor, layers: Sequence[RoundedLayer]) -> Tensor:
    """``(1, T, D)`` through one layer after the other: ``(1, T, D)``, or ``(1, S, D)`` as `AttentionBlock`."""
    if not layers:
        return x
    x_TD = x.flatten(0, 1).contiguous()
    below = 0 if x.requires_grad else sum(1 for _ in takewhile(_learns_nothing, layers))
    for layer in layers[:below]:  # each lets go of what it kept before the next begins
        x_TD = _through(x_TD, [layer])
    return (_through(x_TD, layers[below:]) if layers[below:] else x_TD)[None]


def _learns_nothing(layer: RoundedLayer) -> bool:
    return not any(factor is not None and factor.requires_grad for factor in layer.block.joint.factors())


def _through(x_TD: Tensor, layers: Sequence[RoundedLayer]) -> Tensor:
    factors = [factor for layer in layers for factor in layer.block.joint.factors()]
    out: Tensor = _RoundedLayers.apply(x_TD, layers, *factors)  # type: ignore[no-untyped-call]
    return out


class _RoundedLayers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, layers: Sequence[RoundedLayer], *factors: Tensor | None) -> Tensor:
        outputs, kept, stack = [x_TD], [], []
        for layer in layers:
            arguments = layer.arguments(outputs[-1])
            call("layer_measure", arguments)
            outputs.append(x_TD.new_empty(arguments.last_norm.num_rows, x_TD.shape[1]))
            kept.append(torch.empty(arguments.kept_bytes, dtype=torch.uint8))
            arguments.last_norm.out, arguments.kept = outputs[-1].data_ptr(), kept[-1].data_ptr()
            stack.append(arguments)
        call("layers_forward", _Stack.of(stack))
        # of an input that is dropped out what is left is among what is kept
        inputs = [
            None if layer.block.joint.drops else x for layer, x in zip(layers, outputs[:-1], strict=True)
        ]
        ctx.save_for_backward(*kept, *inputs, *factors)  # factors: what changes in them is noticed
        ctx.layers, ctx.stack, ctx.shape = layers, stack, x_TD.shape
        return outputs[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        layers, count = ctx.layers, len(ctx.layers)
        wants_x, _, *wants_factors = ctx.needs_input_grad
        kept, inputs = ctx.saved_tensors[:count], ctx.saved_tensors[count : 2 * count]
        grads: list[Tensor | None] = []
        passed = [grad_outputs[0].new_empty(ctx.shape) for _ in range(2)]  # from layer to layer, in turn
        above = grad_outputs[0].contiguous()
        for number in reversed(range(count)):
            arguments, below = ctx.stack[number], passed[number % 2]
            # a graph that computes again what it did not keep has it in another place
            arguments.kept, arguments.down.x = kept[number].data_ptr(), _address(inputs[number])
            arguments.grad_out, arguments.grad_x = above.data_ptr(), below.data_ptr()
            arguments.wants_x, above = wants_x or number > 0, below
            own = layers[number].block.joint.num_factors
            wanted, wants_factors = wants_factors[-own:], wants_factors[:-own]
            grads = layers[number].add_gradients(arguments, wanted) + grads
        call("layers_backward", _Stack.of(ctx.stack))
        return above if wants_x else None, None, *grads


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
