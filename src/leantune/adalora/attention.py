"""Self-attention whose query, key and value are one product, whichever of them have adapters, and what is behind it.

T packed tokens, S texts, N heads, H head width, D model width.
"""

from __future__ import annotations

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
from leantune.packing.native.gelu import bias_apart
from leantune.packing.native.int8 import is_linear, product_side_by_side, rounding_of
from leantune.packing.native.library import learns
from leantune.packing.native.norm import NormOfSum, can_normalise
from leantune.packing.native.residual import add_and_norm
from leantune.packing.native.weight import weight_of
from leantune.packing.plan import AttentionPlan


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
        attention: Any = self.get_submodule("self")
        output: Any = self.output
        layers = [attention.query, attention.key, attention.value]
        heads = Heads(self, layers, attention.dropout, self.head_width)
        return attend_and_norm(heads, hidden_states, packed, output.dense, output.dropout, output.LayerNorm)


@dataclass(frozen=True, slots=True)
class Heads:
    """What computes the heads of an attention."""

    module: nn.Module
    """The attention that the plan knows."""
    layers: list[nn.Module]
    """Query, key and value: frozen linear layers, or adapted ones."""
    dropout: PooledDropout
    """Of the attention weights."""
    width: int
    """H."""

    @property
    def dropped(self) -> float:
        """The probability of dropping an attention weight, here and now."""
        return self.dropout.p if self.dropout.training else 0.0


def attend_and_norm(
    heads: Heads,
    x: Tensor,
    packed: AttentionPlan,
    dense: nn.Module,
    dropout: PooledDropout,
    norm: nn.LayerNorm,
) -> Tensor:
    """LayerNorm(dropout(dense(heads(x))) + x): ``(1, T, D)`` to ``(1, T, D)``, or ``(1, S, D)`` of first tokens where
    the plan wants no others of this attention.
    """
    only_first = packed.last_attention is heads.module
    projected = _projections_of(heads.layers, x) if torch.is_grad_enabled() else None
    if (
        projected is not None
        and can_attend(x, heads.width)
        and can_normalise(norm, x)
        and bias_apart(dense)
        and not learns(dense.weight)
    ):
        block = AttentionBlock(
            Joint.of(x, projected, _dropout_of(heads.layers)),
            Attention.of(packed, heads.width**-0.5, heads.dropped, None, only_first),
            heads.width,
            weight_of([dense], x),
            NormOfSum.of(norm, dense.bias, dropout),
        )
        return block(x)
    attended = _attended(heads, x, packed)
    if only_first:
        attended, x = (each[:, packed.first_tokens] for each in (attended, x))
    return add_and_norm(dense, dropout, norm, attended, x)


def _attended(heads: Heads, x: Tensor, packed: AttentionPlan) -> Tensor:
    """What the heads give for ``x`` ``(1, T, D)``: ``(1, T, N * H)``."""
    query, key, value = (
        out.view(*out.shape[:-1], -1, heads.width).transpose(1, 2) for out in projections(x, heads.layers)
    )
    out, _ = packed_attention(heads.module, query, key, value, None, dropout=heads.dropped, packed=packed)
    return out.flatten(-2)


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
    """Drop-in for transformers' ``BertLayer`` and its like, with the same children.

    Args:
        attention: `PackedAttention`.
        intermediate, output: of the feed-forward block.
    """

    def __init__(self, attention: PackedAttention, intermediate: nn.Module, output: nn.Module) -> None:
        super().__init__()
        self.attention, self.intermediate, self.output = attention, intermediate, output

    def forward(self, hidden_states: Tensor, *unused: Any, packed: AttentionPlan, **more: Any) -> Tensor:
        """``(1, T, D)`` to ``(1, T, D)``, or ``(1, S, D)`` as `PackedAttention`."""
        hidden = self.attention(hidden_states, packed)
        out: Tensor = self.output(self.intermediate(hidden), hidden)
        return out


def pack_layers(model: nn.Module, names: list[str]) -> None:
    """Put `PackedLayer` where ``model`` has modules with these names; their dropout is pooled already."""
    for name in names:
        layer: Any = model.get_submodule(name)
        children = sorted(child for child, _ in layer.named_children())
        assert children == ["attention", "intermediate", "output"], f"{name} has {', '.join(children)}"
        attention = layer.attention.get_submodule("self")
        packed = PackedAttention(attention, layer.attention.output, attention.attention_head_size)
        model.set_submodule(name, PackedLayer(packed, layer.intermediate, layer.output))
