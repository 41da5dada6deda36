"""Self-attention whose query, key and value are one product, whichever of them have adapters, and what is behind it.

T packed tokens, S texts, N heads, H head width, D model width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leantune.adalora.layer import AdaLoraLinear
from leantune.packing.attention import packed_attention
from leantune.packing.dropout import PooledDropout
from leantune.packing.native.adapter import Joint, Projection, can_adapt, can_project, project
from leantune.packing.native.attention import Attention, can_attend
from leantune.packing.native.attention_block import AttentionBlock
from leantune.packing.native.dense import can_multiply, dense
from leantune.packing.native.feed_forward import FeedForward
from leantune.packing.native.gelu import bias_apart
from leantune.packing.native.int8 import is_linear, product_side_by_side, rounding_of
from leantune.packing.native.layer import RoundedLayer, through_layers
from leantune.packing.native.library import learns
from leantune.packing.native.norm import NormOfSum, can_normalise
from leantune.packing.native.residual import add_and_norm
from leantune.packing.native.weight import weight_of
from leantune.packing.plan import AttentionPlan


@dataclass(frozen=True, slots=True)
class AttentionParts:
    """What computes LayerNorm(dropout(dense(heads(x))) + x), whatever an encoder calls it."""

    module: nn.Module
    """The attention that the plan knows."""
    layers: list[nn.Module]
    """Query, key and value, from D to N * H: frozen linear layers, or adapted ones."""
    weights_dropout: PooledDropout
    """Of the attention weights."""
    head_width: int
    """H."""
    dense: nn.Module
    dropout: PooledDropout
    norm: nn.LayerNorm

    def __call__(self, x: Tensor, packed: AttentionPlan) -> Tensor:
        """``(1, T, D)`` to ``(1, T, D)``, or ``(1, S, D)`` of first tokens where the plan wants no others of this
        attention.
        """
        block = self.block(x, packed)
        return self.one_by_one(x, packed) if block is None else block(x)

    def block(self, x: Tensor, packed: AttentionPlan) -> AttentionBlock | None:
        """All of it as one graph node, where there is a graph and the kernels serve."""
        projected = _projections_of(self.layers, x) if torch.is_grad_enabled() else None
        if not (
            projected is not None
            and can_attend(x, self.head_width)
            and can_normalise(self.norm, x)
            and bias_apart(self.dense)
            and not learns(self.dense.weight)
        ):
            return None
        only_first = packed.last_attention is self.module
        return AttentionBlock(
            Joint.of(x, projected, _dropout_of(self.layers)),
            Attention.of(packed, self.head_width**-0.5, self._dropped, None, only_first),
            self.head_width,
            weight_of([self.dense], x),
            NormOfSum.of(self.norm, self.dense.bias, self.dropout),
        )

    def one_by_one(self, x: Tensor, packed: AttentionPlan) -> Tensor:
        """The same by an operation after the other."""
        query, key, value = (
            out.view(*out.shape[:-1], -1, self.head_width).transpose(1, 2)
            for out in projections(x, self.layers)
        )
        heads, _ = packed_attention(
            self.module, query, key, value, None, dropout=self._dropped, packed=packed
        )
        attended = heads.flatten(-2)  # (1, T, N * H)
        if packed.last_attention is self.module:
            attended, x = (each[:, packed.first_tokens] for each in (attended, x))
        return add_and_norm(self.dense, self.dropout, self.norm, attended, x)

    @property
    def _dropped(self) -> float:
        return self.weights_dropout.p if self.weights_dropout.training else 0.0


class PackedAttention(nn.Module):
    """In place of transformers' ``BertAttention`` and its like, with the same children, in a `PackedLayer`.

    Args:
        attention: with the children ``query``, ``key``, ``value``, from D to N * H, and ``dropout``, of its weights.
        output: with the children ``dense``, ``dropout`` and ``LayerNorm``.
        head_width: H.
    """

    def __init__(self, attention: nn.Module, output: nn.Module, head_width: int) -> None:
        super().__init__()
        self.add_module("self", attention)
        self.output, self.head_width = output, head_width

    def forward(self, hidden_states: Tensor, packed: AttentionPlan) -> Tensor:
        """``(1, T, D)`` to ``(1, T, D)``, or ``(1, S, D)`` of first tokens where the plan wants no others."""
        return self.parts()(hidden_states, packed)

    def parts(self) -> AttentionParts:
        """Its modules as they are now: pruning puts others in their place."""
        attention: Any = self.get_submodule("self")
        output: Any = self.output
        layers = [attention.query, attention.key, attention.value]
        behind = (output.dense, output.dropout, output.LayerNorm)
        return AttentionParts(self, layers, attention.dropout, self.head_width, *behind)


def projections(x: Tensor, layers: list[nn.Module]) -> tuple[Tensor, ...]:
    """What each of ``layers`` makes of ``x``; by one product where the native kernels serve, with one dropout
    for the input of all adapters.

    Frozen layers without a gradient stay apart where torch multiplies bf16: what is saved is saved backward and around
    adapters, or by reading or rounding x once.
    """
    if can_multiply(layers, x):
        return dense(x, layers)
    joint = _projections_of(layers, x)
    if joint is None:
        return tuple(layer(x) for layer in layers)
    dropout = _dropout_of(layers)
    if dropout is None and not torch.is_grad_enabled():
        rounding = rounding_of(layers, x)
        if rounding is None:
            return tuple(layer(x) for layer in layers)
        return product_side_by_side(x, rounding)
    return project(x, joint, dropout)


def _projections_of(layers: list[nn.Module], x: Tensor) -> list[Projection] | None:
    """All ``layers`` for `project`, or None if one is not for that."""
    found = [projection for layer in layers if (projection := _projection(layer, x)) is not None]
    return found if len(found) == len(layers) else None


def _dropout_of(layers: list[nn.Module]) -> PooledDropout | None:
    """Of the input of all adapters; None where there are none."""
    found = [layer.dropout for layer in layers if isinstance(layer, AdaLoraLinear)]
    dropout = found[0] if found else None
    assert dropout is None or isinstance(dropout, PooledDropout)
    return dropout


def _projection(layer: nn.Module, x: Tensor) -> Projection | None:
    """``layer`` for `project`, or None if it is not for that."""
    base = layer.base if isinstance(layer, AdaLoraLinear) else layer
    if not is_linear(base) or base.bias is None:
        return None
    if isinstance(layer, AdaLoraLinear):
        return layer.projection() if can_adapt(layer.dropout, base, x) else None
    is_frozen = not (learns(base.weight) or learns(base.bias))
    return Projection(base) if is_frozen and can_project(base, x) else None


class PackedLayer(nn.Module):
    """In place of transformers' ``BertLayer`` and its like, with the same children, for `encode`.

    Args:
        attention: `PackedAttention`.
        intermediate, output: of the feed-forward block.
    """

    def __init__(self, attention: PackedAttention, intermediate: nn.Module, output: nn.Module) -> None:
        super().__init__()
        self.attention, self.intermediate, self.output = attention, intermediate, output

    def forward(self, hidden_states: Tensor, packed: AttentionPlan) -> Tensor:
        """``(1, T, D)`` to ``(1, T, D)``, or ``(1, S, D)`` as `PackedAttention`."""
        hidden = self.attention(hidden_states, packed)
        out: Tensor = self.output(self.intermediate(hidden), hidden)
        return out

    def whole(self, x: Tensor, packed: AttentionPlan) -> RoundedLayer | None:
        """The layer for inputs like ``x`` in int8, with its masks drawn; None where it goes by parts."""
        feed_forward: FeedForward | None = getattr(self.output, "block", None)
        if feed_forward is None or not feed_forward.is_rounded(x):
            return None
        block = self.attention.parts().block(x, packed)
        return None if block is None else RoundedLayer.of(block, feed_forward, x)


def encode(layers: Iterable[PackedLayer], x: Tensor, packed: AttentionPlan) -> Tensor:
    """``(1, T, D)`` through one layer after the other, those in int8 together and without a call of their modules:
    ``(1, T, D)``, or ``(1, S, D)`` as `PackedAttention`.
    """
    together: list[RoundedLayer] = []
    for layer in layers:
        whole = layer.whole(x, packed)
        if whole is not None:
            together.append(whole)
        else:
            x, together = layer(through_layers(x, together), packed), []
    return through_layers(x, together)


def pack_layers(model: nn.Module, names: list[str]) -> None:
    """Put `PackedLayer` where ``model`` has modules with these names; their dropout is pooled already."""
    for name in names:
        layer: Any = model.get_submodule(name)
        children = sorted(child for child, _ in layer.named_children())
        assert children == ["attention", "intermediate", "output"], f"{name} has {', '.join(children)}"
        attention = layer.attention.get_submodule("self")
        packed = PackedAttention(attention, layer.attention.output, attention.attention_head_size)
        model.set_submodule(name, PackedLayer(packed, layer.intermediate, layer.output))
