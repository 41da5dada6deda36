"""BERT-like layers with int8 products as one graph node, with one call per direction (`layer.c`).

With one call per kernel, Python took a quarter of a training step of MiniLM.

Shape letters: T packed tokens, S texts, N heads, D model width, F width between the layers of the feed-forward block.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from leantune.kernels.interface import LayerLike
from leantune.kernels.native.attention import Attention, AttentionArguments
from leantune.kernels.native.library import call, mirrors
from leantune.kernels.native.linear import AdapterForward, FusedLinear, Projections
from leantune.kernels.native.rows import NormArguments, NormOfSum
from leantune.kernels.native.weights import MatrixArgument, PackedLayer, PackedWeight
from leantune.packing.layout import Layout

_Pointer = ctypes.c_void_p
_MATRICES = ("qkv", "out_proj", "up_proj", "down_proj")


@mirrors("layer")
class LayerArguments(ctypes.Structure):
    """``layer`` of ``csrc/kernels.h``."""

    _fields_ = (
        ("down", AdapterForward),
        ("heads", AttentionArguments),
        *((name, NormArguments) for name in ("norm", "last_norm")),
        *((name, MatrixArgument) for name in _MATRICES),
        *((name, _Pointer) for name in ("gelu_bias", "kept")),
        ("kept_bytes", ctypes.c_int64),
        ("is_last_pass", ctypes.c_int64),
        ("grad_out", _Pointer),
        ("gradients", Projections),
        *((f"{name}_back", MatrixArgument) for name in _MATRICES),
        ("grad_x", _Pointer),
        ("wants_x", ctypes.c_int64),
    )


@mirrors("stack")
class StackArguments(ctypes.Structure):
    """``stack`` of ``csrc/kernels.h``."""

    _fields_ = (("layers", ctypes.POINTER(ctypes.POINTER(LayerArguments))), ("num_layers", ctypes.c_int64))

    @classmethod
    def of(cls, layers: Sequence[LayerArguments]) -> StackArguments:
        return cls((ctypes.POINTER(LayerArguments) * len(layers))(*map(ctypes.pointer, layers)), len(layers))


@dataclass(frozen=True, slots=True)
class Int8Layer:
    """A layer during one batch: its weights, its adapters, and its dropout masks."""

    weights: tuple[PackedWeight, ...]
    """In the order of `_MATRICES`."""
    projections: FusedLinear
    """Query, key and value."""
    attention: Attention
    norm: NormOfSum
    """The norm after attention, with the bias of ``out_proj``."""
    last_norm: NormOfSum
    """The norm after the feed-forward block, with the bias of ``down_proj``."""
    head_width: int

    @classmethod
    def of(cls, layer: LayerLike, layout: Layout, *, only_first: bool) -> Int8Layer:
        """``layer`` for the texts of ``layout``, with new dropout masks."""
        packed: PackedLayer = layer.prepared
        assert isinstance(layer.attention_norm, nn.LayerNorm)
        assert isinstance(layer.mlp_norm, nn.LayerNorm)
        return cls(
            (packed.projections, packed.out_proj, packed.up_proj, packed.down_proj),
            FusedLinear.of(packed.projections, layer.projections, quantized=True),
            Attention.of(layer, layout, only_first=only_first),
            NormOfSum.of(layer.attention_norm, packed.out_proj.bias, layer.out_dropout),
            NormOfSum.of(layer.mlp_norm, packed.down_proj.bias, layer.down_dropout),
            layer.head_width,
        )

    def arguments(self, x_TD: Tensor) -> LayerArguments:
        """Arguments for the forward pass, without the addresses of ``x`` and of outputs."""
        num_tokens, width = x_TD.shape
        rows = len(self.attention.layout.lengths) if self.attention.only_first else num_tokens
        up_bias = self.weights[_MATRICES.index("up_proj")].bias
        assert up_bias is not None
        arguments = LayerArguments(
            down=self.projections.arguments(x_TD),
            heads=self.attention.arguments(num_tokens, width // self.head_width, self.head_width),
            norm=self.norm.arguments(rows, width),
            last_norm=self.last_norm.arguments(rows, width),
            gelu_bias=up_bias.data_ptr(),
        )
        for name, weight in zip(_MATRICES, self.weights, strict=True):
            setattr(arguments, name, weight.int8.as_argument())
        return arguments

    def add_gradients(self, arguments: LayerArguments, wants_factors: Sequence[bool]) -> list[Tensor | None]:
        """Add arguments for the backward pass; returns memory for the gradients of the adapters' factors."""
        grads = self.projections.gradients(wants_factors)
        arguments.gradients = self.projections.described(grads)
        for name, weight in zip(_MATRICES, self.weights, strict=True):
            setattr(arguments, f"{name}_back", weight.int8_transposed.as_argument())
        return grads


def int8_layers(x_TD: Tensor, layers: Sequence[Int8Layer]) -> Tensor:
    """Compute layers in order: ``(T, D)`` to ``(T, D)``, or to ``(S, D)`` if the last layer is ``only_first``."""
    x_TD = x_TD.contiguous()
    below = 0 if x_TD.requires_grad else sum(1 for _ in takewhile(_is_frozen, layers))
    if not torch.is_grad_enabled():
        below = len(layers)
    for layer in layers[:below]:  # each frees its memory before the next begins
        x_TD = _apply(x_TD, [layer], is_last_pass=True)
    return _apply(x_TD, layers[below:], is_last_pass=False) if layers[below:] else x_TD


def _is_frozen(layer: Int8Layer) -> bool:
    return not any(factor is not None and factor.requires_grad for factor in layer.projections.factors())


def _apply(x_TD: Tensor, layers: Sequence[Int8Layer], *, is_last_pass: bool) -> Tensor:
    factors = [factor for layer in layers for factor in layer.projections.factors()]
    out: Tensor = _Int8Layers.apply(x_TD, layers, is_last_pass, *factors)  # type: ignore[no-untyped-call]
    return out


class _Int8Layers(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, layers: Sequence[Int8Layer], is_last_pass: bool, *factors: Tensor | None
    ) -> Tensor:
        outputs, kept, stack = [x_TD], [], []
        for layer in layers:
            arguments = layer.arguments(outputs[-1])
            arguments.is_last_pass = is_last_pass
            call("layer_measure", arguments)
            outputs.append(x_TD.new_empty(arguments.last_norm.num_rows, x_TD.shape[1]))
            kept.append(torch.empty(arguments.kept_bytes, dtype=torch.uint8))
            arguments.last_norm.out, arguments.kept = outputs[-1].data_ptr(), kept[-1].data_ptr()
            stack.append(arguments)
        call("layers_forward", StackArguments.of(stack))
        # if an input is dropped out, ``kept`` has what remains of it
        inputs = [
            None if layer.projections.drops else x for layer, x in zip(layers, outputs[:-1], strict=True)
        ]
        ctx.save_for_backward(*kept, *inputs, *factors)  # factors: so that torch detects in-place changes
        ctx.layers, ctx.stack, ctx.shape = layers, stack, x_TD.shape
        return outputs[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        layers, count = ctx.layers, len(ctx.layers)
        wants_x, _, _, *wants_factors = ctx.needs_input_grad
        kept, inputs = ctx.saved_tensors[:count], ctx.saved_tensors[count : 2 * count]
        grads: list[Tensor | None] = []
        passed = [grad_outputs[0].new_empty(ctx.shape) for _ in range(2)]  # layers alternate between them
        above = grad_outputs[0].contiguous()
        for number in reversed(range(count)):
            arguments, below = ctx.stack[number], passed[number % 2]
            # a graph that recomputes saved tensors has them at other addresses
            arguments.kept, arguments.down.x = kept[number].data_ptr(), _address(inputs[number])
            arguments.grad_out, arguments.grad_x = above.data_ptr(), below.data_ptr()
            arguments.wants_x, above = wants_x or number > 0, below
            own = layers[number].projections.num_factors
            wanted, wants_factors = wants_factors[-own:], wants_factors[:-own]
            grads = layers[number].add_gradients(arguments, wanted) + grads
        call("layers_backward", StackArguments.of(ctx.stack))
        return above if wants_x else None, None, None, *grads


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
