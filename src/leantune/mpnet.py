"""MPNet over packed tokens: transformers gives it no other attention than its own, and what its scores get by
distance would be a square of all tokens of a batch.

T packed tokens, S texts, N heads, H head width, D model width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leantune.adalora.attention import AttentionParts
from leantune.packing.distance import DistanceBias
from leantune.packing.dropout import PooledDropout
from leantune.packing.plan import AttentionPlan, block_width


class PackedMPNetAttention(nn.Module):
    """Drop-in for transformers' ``MPNetAttention``, with the same children.

    Args:
        attn: its ``MPNetSelfAttention``, whose layers and dropout are used.
        norm: over D, of the sum of output and input.
        dropout: of the output.
    """

    def __init__(self, attn: nn.Module, norm: nn.LayerNorm, dropout: PooledDropout) -> None:
        super().__init__()
        self.attn, self.LayerNorm, self.dropout = attn, norm, dropout

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: AttentionPlan | None = None,
        **unused: Any,
    ) -> tuple[Tensor]:
        """``(1, T, D)`` to ``(1, T, D)``, or ``(1, S, D)`` of first tokens where the plan wants no others; it
        comes in the place of ``position_bias``, the one argument that transformers' layer hands on.
        """
        attn: Any = self.attn
        assert position_bias is not None
        layers, behind = [attn.q, attn.k, attn.v], (attn.o, self.dropout, self.LayerNorm)
        parts = AttentionParts(self, layers, attn.dropout, attn.attention_head_size, *behind)
        return (parts(hidden_states, position_bias),)


def replace_attention(model: Any) -> None:
    """Put `PackedMPNetAttention` into every layer of an MPNet classifier; its dropout is pooled already."""
    for layer in model.mpnet.encoder.layer:
        block = layer.attention
        layer.attention = PackedMPNetAttention(block.attn, block.LayerNorm, block.dropout)


def encode(model: Any, inputs: Mapping[str, Tensor], plan: AttentionPlan) -> Tensor:
    """Hidden states of packed ``input_ids`` and ``position_ids`` ``(1, T)``: ``(1, T, D)``, or ``(1, S, D)`` of
    first tokens.
    """
    encoder = model.mpnet.encoder
    plan.distance_bias = distance_bias(encoder, plan.max_seqlen)
    hidden: Tensor = model.mpnet.embeddings(**inputs)
    for layer in encoder.layer:
        (hidden,) = layer(hidden, position_bias=plan)
    return hidden


def distance_bias(encoder: Any, longest: int) -> DistanceBias:
    """What MPNet learnt for each head and bucket of distances, by distance.

    Args:
        encoder: transformers' ``MPNetEncoder``.
        longest: tokens of the longest text.
    """
    reach = block_width(longest)
    table: Tensor = encoder.relative_attention_bias.weight.detach()
    behind = torch.arange(1 - reach, reach, device=table.device)
    buckets = encoder.relative_position_bucket(-behind)  # it counts from the query to the key
    return DistanceBias(table[buckets].float().T.contiguous())
