"""Encoder layers and layouts for tests of kernels, built here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from leantune.adalora.layer import AdaLoraLinear
from leantune.model.encoder import EncoderConfig, EncoderLayer, LayerConfig
from leantune.packing.batch import pack
from leantune.packing.dropout import DropoutStream, PooledDropout
from leantune.packing.layout import TOKEN_MULTIPLE, Layout

WIDTH, INNER, HEAD = 64, 96, 32

FORMS = {
    "bert": {},
    "fused": {"is_fused": True},
    "silu": {"activation": "silu"},
    "modernbert": {
        "is_fused": True,
        "is_gated": True,
        "norm_first": True,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
    },
}
"""What differs between encoders whose layers the kernels compute."""


def layout_of(lengths: Sequence[int], *, spare: int = 3) -> Layout:
    """The layout of texts of these lengths, with tokens of no text behind them."""
    lengths = sorted(lengths)
    batch = pack([np.zeros(n, np.int32) for n in lengths], np.arange(len(lengths)))
    positions = torch.nn.functional.pad(batch.position_ids, (0, spare))
    return Layout(batch.lengths, batch.cu_seqlens, positions)


def layer_of(
    ranks: Sequence[int] = (0, 0, 0),
    p: float = 0.0,
    *,
    form: str = "bert",
    stream: DropoutStream | None = None,
    layer: LayerConfig | None = None,
    others: Sequence[int] = (0, 0, 0),
) -> EncoderLayer:
    """A frozen layer in bf16 with two heads and random adapters, in training mode.

    Args:
        ranks: of the adapters on query, key and value; where they are one layer, on that.
        p: of all dropouts.
        form: of `FORMS`.
        stream: where masks come from.
        layer: window and rotary embedding.
        others: ranks of the adapters on ``out_proj``, ``up_proj`` and ``down_proj``.
    """
    stream = stream or DropoutStream(7)
    dropouts = dict.fromkeys(("attention_dropout", "out_dropout", "down_dropout", "inner_dropout"), p)
    config = EncoderConfig(
        vocab_size=9,
        width=WIDTH,
        num_heads=WIDTH // HEAD,
        inner_width=INNER,
        layers=(layer or LayerConfig(),),
        norm_eps=1e-12,
        embedding_width=WIDTH,
        max_positions=0,
        **dropouts,
        **FORMS[form],
    )
    made = EncoderLayer(config, layer or LayerConfig(), stream)
    for module in made.modules():
        if isinstance(module, nn.Linear):
            nn.Linear.reset_parameters(module)
    for norm in (made.attention_norm, made.mlp_norm):
        nn.init.normal_(norm.weight, mean=1.0, std=0.3)
    made.bfloat16().requires_grad_(False)
    names = ("qkv",) if made.is_fused else ("query", "key", "value")
    for name, rank in (*zip(names, ranks, strict=False), *zip(OTHERS, others, strict=True)):
        if rank:
            setattr(made, name, adapted(getattr(made, name), rank, p, stream))
    return made.train()


OTHERS = ("out_proj", "up_proj", "down_proj")


def adapted(layer: nn.Linear, rank: int, p: float, stream: DropoutStream) -> AdaLoraLinear:
    """``layer`` with random triplets."""
    generator, dropout = torch.Generator().manual_seed(rank), PooledDropout(p, stream)
    made = AdaLoraLinear(layer, rank, scaling=0.5, dropout=dropout, generator=generator)
    with torch.no_grad():
        for factor in (made.lora_A, made.lora_E, made.lora_B):
            factor.copy_(torch.randn(factor.shape, generator=generator) / 4)
    return made


def rounded_up(tokens: int) -> int:
    """What an encoder rounds its tokens up to."""
    return tokens + -tokens % TOKEN_MULTIPLE
