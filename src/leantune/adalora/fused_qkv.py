"""Self-attention whose query, key and value are one product, whichever of them have adapters.

T packed tokens, N heads, H head width, D model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from leantune.adalora.layer import AdaLoraLinear
from leantune.packing.attention import packed_attention
from leantune.packing.dropout import PooledDropout
from leantune.packing.native.adapter import Projection, can_adapt, can_project, project
from leantune.packing.native.dense import can_multiply, dense
from leantune.packing.native.int8 import Int8Linear, is_linear, product_side_by_side
from leantune.packing.native.library import learns
from leantune.packing.plan import AttentionPlan


class FusedSelfAttention(nn.Module):
    """Drop-in for transformers' ``BertSelfAttention`` and its like, with the same children.

    Args:
        query, key, value: from D to N * H; frozen linear layers, or adapted ones.
        dropout: of the attention weights.
        head_width: H.
    """

    def __init__(
        self, query: nn.Module, key: nn.Module, value: nn.Module, dropout: PooledDropout, head_width: int
    ) -> None:
        super().__init__()
        self.query, self.key, self.value, self.dropout = query, key, value, dropout
        self.head_width = head_width

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        packed: AttentionPlan,
        **unused: Any,
    ) -> tuple[Tensor, None]:
        """``(1, T, D)`` to ``(1, T, N * H)``, and no weights."""
        layers = [self.query, self.key, self.value]
        return attended(self, hidden_states, layers, self.dropout, self.head_width, packed), None


def attended(
    module: nn.Module,
    x: Tensor,
    layers: list[nn.Module],
    dropout: PooledDropout,
    head_width: int,
    packed: AttentionPlan,
) -> Tensor:
    """What the heads give for ``x`` ``(1, T, D)``: ``(1, T, N * H)``.

    Args:
        module: the attention that the plan knows.
        x: hidden states.
        layers: query, key and value; frozen linear layers, or adapted ones.
        dropout: of the attention weights.
        head_width: H.
        packed: the plan of the batch.
    """
    query, key, value = (
        out.view(*out.shape[:-1], -1, head_width).transpose(1, 2) for out in projections(x, layers)
    )
    p = dropout.p if dropout.training else 0.0
    heads, _ = packed_attention(module, query, key, value, None, dropout=p, packed=packed)
    return heads.flatten(-2)


def projections(x: Tensor, layers: list[nn.Module]) -> tuple[Tensor, ...]:
    """What each of ``layers`` makes of ``x``; by one product where the native kernels serve, with one dropout
    for the input of all adapters.

    Frozen layers without a gradient stay apart where torch multiplies bf16: what is saved is saved backward and around
    adapters, or by reading or rounding x once.
    """
    if can_multiply(layers, x):
        return dense(x, layers)
    joint = [projection for layer in layers if (projection := _projection(layer, x)) is not None]
    dropouts = [layer.dropout for layer in layers if isinstance(layer, AdaLoraLinear)]
    if len(joint) < len(layers):
        return tuple(layer(x) for layer in layers)
    if not (dropouts or torch.is_grad_enabled()):
        rounding = [layer for layer in layers if isinstance(layer, Int8Linear) and layer.rounds(x)]
        if len(rounding) < len(layers):
            return tuple(layer(x) for layer in layers)
        return product_side_by_side(x, rounding)
    dropout = dropouts[0] if dropouts else None
    assert dropout is None or isinstance(dropout, PooledDropout)
    return project(x, joint, dropout)


def _projection(layer: nn.Module, x: Tensor) -> Projection | None:
    """``layer`` for `project`, or None if it is not for that."""
    base = layer.base if isinstance(layer, AdaLoraLinear) else layer
    if not is_linear(base) or base.bias is None or not can_project(base, x):
        return None
    if isinstance(layer, AdaLoraLinear):
        return layer.projection() if can_adapt(layer.dropout, base, x) else None
    if learns(base.weight) or learns(base.bias):
        return None
    return Projection(base)


def fuse_self_attention(model: nn.Module, names: list[str]) -> None:
    """Put `FusedSelfAttention` where ``model`` has modules with these names; their dropout is pooled already."""
    for name in names:
        block: Any = model.get_submodule(name)
        children = dict(block.named_children())
        assert list(children) == ["query", "key", "value", "dropout"], f"{name} has {', '.join(children)}"
        model.set_submodule(name, FusedSelfAttention(**children, head_width=block.attention_head_size))
