"""The operations of an encoder in plain torch, written like the equations, for any device and dtype.

T packed tokens, S texts, N heads, K heads of key and value, H head width, D model width, F inner width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from leantune.kernels.accelerator import varlen_attention
from leantune.kernels.disentangled import disentangled_attention
from leantune.kernels.grouped import grouped_attention
from leantune.kernels.interface import EmbeddingsLike, Kernels, LayerLike
from leantune.packing.layout import Layout

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}
"""Activations by their name in transformers configs."""


class Reference(Kernels):
    """Kernels in torch; attention uses blocks of texts of similar length on a CPU, a varlen kernel elsewhere."""

    name = "torch"
    mixes_lengths = False  # a block of attention is as long as its longest text

    def embed(
        self, embeddings: EmbeddingsLike, input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor
    ) -> Tensor:
        """``(T,)`` int64 each to ``(T, D)``."""
        total = embeddings.word(input_ids)
        if embeddings.scale != 1:  # rounded as transformers does
            total = total * torch.tensor(embeddings.scale, dtype=total.dtype)
        if embeddings.token_type is not None:
            total = total + embeddings.token_type(token_type_ids)
        if embeddings.position is not None:
            total = total + embeddings.position(position_ids)
        embedded: Tensor = embeddings.dropout(embeddings.norm(total))
        return embedded

    def layers(
        self, layers: Sequence[LayerLike], x_TD: Tensor, layout: Layout, *, only_first: bool
    ) -> Tensor:
        """``(T, D)`` to ``(T, D)`` or ``(S, D)``."""
        for layer in layers:
            is_last = layer is layers[-1]
            x_TD = encoder_layer(layer, x_TD, layout, only_first=only_first and is_last)
        return x_TD


def encoder_layer(layer: LayerLike, x_TD: Tensor, layout: Layout, *, only_first: bool) -> Tensor:
    """Attention, then the feed-forward block, each added to its input (Vaswani et al., 2017, section 3.1).

    Norms follow the sums, or precede the blocks with ``norm_first`` (Xiong et al., 2020, arXiv 2002.04745).
    Gemma 3 has norms on both sides of each block.
    """
    heads = attention(layer.attention_norm(x_TD) if layer.norm_first else x_TD, layer, layout, only_first)
    if only_first:
        heads, x_TD = heads[layout.first_tokens], x_TD[layout.first_tokens]
    x_TD = x_TD + layer.out_dropout(layer.attention_out_norm(layer.out_proj(heads)))
    if not layer.norm_first:
        x_TD = layer.attention_norm(x_TD)
    inner = layer.mlp_norm(x_TD) if layer.norm_first else x_TD
    out: Tensor = x_TD + layer.down_dropout(layer.mlp_out_norm(feed_forward(inner, layer)))
    return out if layer.norm_first else layer.mlp_norm(out)


def attention(x_TD: Tensor, layer: LayerLike, layout: Layout, only_first: bool) -> Tensor:
    """Attention within each text: ``(T, D)`` to concatenated heads ``(T, D)``."""
    q, k, v = rotated_heads(torch.cat([each(x_TD) for each in layer.projections], dim=-1), layer, layout)
    if layout.relative is not None:
        return disentangled_attention(q, k, v, layer, layout, only_first=only_first).flatten(1)
    dropout = layer.attention_dropout.current_p
    if x_TD.device.type != "cpu":
        return varlen_attention(q, k, v, layout, dropout, layer.window).flatten(1)
    stream = layer.attention_dropout.stream
    heads = grouped_attention(q, k, v, layout, stream, dropout, layer.window, only_first=only_first)
    return heads.flatten(1)


def rotated_heads(qkv: Tensor, layer: LayerLike, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value ``(T, N, H)`` from ``(T, (N + 2 K) H)``, the first two normed and rotated.

    Heads of key and value are repeated for the heads of the query that they serve (Ainslie et al., 2023, GQA, arXiv
    2305.13245, section 2.2).
    """
    own, shared = layer.num_heads, layer.num_key_value_heads
    q, k, v = torch.split(qkv.view(len(qkv), -1, layer.head_width), [own, shared, shared], dim=1)
    q, k = layer.query_norm(q), layer.key_norm(k)
    if layer.rotary is not None:
        rotation = layout.rotation(layer.rotary, layer.head_width)
        q, k = rotation(q), rotation(k)
    if layer.score_scale != 1:
        q = q * layer.score_scale
    if shared < own:
        k, v = (each.repeat_interleave(own // shared, dim=1) for each in (k, v))
    return q, k, v


def feed_forward(x_TD: Tensor, layer: LayerLike) -> Tensor:
    """``down_proj(activation(up_proj(x)))``, ``(T, D)`` to ``(T, D)``."""
    out: Tensor = layer.down_proj(activated([each(x_TD) for each in layer.up_projections], layer))
    return out


def activated(inner: Sequence[Tensor], layer: LayerLike) -> Tensor:
    """The activation of the outputs of ``layer.up_projections``: ``(T, F)``.

    If the layer is gated, the activation of the first half of ``(T, 2 F)`` times the second half (Shazeer, 2020,
    arXiv 2002.05202, eq. 5); two layers compute a half each.
    """
    activation = ACTIVATIONS[layer.activation]
    if not layer.is_gated:
        return activation(inner[0])
    half, gate = inner if len(inner) == 2 else inner[0].chunk(2, dim=-1)
    gated: Tensor = layer.inner_dropout(activation(half) * gate)
    return gated
