"""A transformer encoder over packed tokens: texts of a batch are concatenated without padding.

One encoder serves all families in `families`; an `EncoderConfig` holds their differences. Each layer is computed by a
`kernels.interface.Kernels`, chosen when the model is built.

T packed tokens, S texts, D model width, F inner width, N heads, K heads of key and value, H head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leantune.kernels.interface import Kernels, Linear, Norm
from leantune.kernels.reference import ACTIVATIONS, Reference
from leantune.packing.batch import PackedBatch
from leantune.packing.dropout import DropoutStream, PooledDropout
from leantune.packing.layout import TOKEN_MULTIPLE, WHOLE_TEXT, Layout, Window, block_width
from leantune.packing.positions import (
    DistanceBias,
    RelativePositions,
    Rotary,
    log_bucket,
    relative_position_bucket,
)

NormKind = Literal["layer", "rms", "rms from one"]
"""LayerNorm; RMSNorm; RMSNorm whose stored weights are differences from one, as in Gemma."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """The settings in which encoders differ."""

    vocab_size: int
    width: int
    """D."""
    num_heads: int
    inner_width: int
    """F."""
    layers: tuple[LayerConfig, ...]
    norm_eps: float
    embedding_width: int
    """Width of the embedding tables; if it is not D, a linear layer follows."""
    embedding_scale: float = 1.0
    """Factor of word embeddings."""
    max_positions: int
    """Rows of the position embedding table; 0: no such table."""
    token_types: int = 0
    """Rows of the token type table; 0: no such table."""
    distance_buckets: int = 0
    """Number of distance buckets for the bias of attention scores; 0: no bias."""
    relative: RelativeConfig | None = None
    """Disentangled attention; None: scores depend on positions only by ``distance_buckets`` or rotation."""
    convolution: ConvolutionConfig | None = None
    """A convolution beside the first layer."""
    position_offset: int = 0
    """Position id of a text's first token."""
    reads_last: bool = False
    """Whether the classifier reads the last token of a text instead of the first.

    Texts are then reversed in the batch, so that this token is the first for kernels too.
    """
    num_key_value_heads: int | None = None
    """K; None: N."""
    own_head_width: int | None = None
    """H; None: D / N."""
    score_scale: float = 1.0
    """Factor of attention scores besides ``1 / sqrt(H)``."""
    norms_heads: bool = False
    """Whether a norm follows the projections of query and key, in each head."""
    activation: str = "gelu"
    is_gated: bool = False
    """Whether there are 2 F inner values: half are activated, and multiplied by the other half."""
    norm: NormKind = "layer"
    norm_first: bool = False
    """Whether norms precede their blocks instead of following the residual sums."""
    norms_outputs: bool = False
    """Whether norms also follow the blocks, before the residual sums."""
    norms_embeddings: bool = True
    is_fused: bool = False
    """Whether one linear layer computes query, key and value, and another the two halves of a gated block."""
    norm_bias: bool = True
    attention_bias: bool = True
    out_bias: bool | None = None
    """Whether ``out_proj`` has a bias; None: as the other layers of attention."""
    mlp_bias: bool = True
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    out_dropout: float = 0.0
    """Dropout after ``out_proj``."""
    down_dropout: float = 0.0
    """Dropout after ``down_proj``."""
    inner_dropout: float = 0.0
    """Dropout after a gated activation."""

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("an encoder needs at least one layer")
        if self.num_heads < 1 or (self.own_head_width is None and self.width % self.num_heads):
            raise ValueError(
                f"a width of {self.width} cannot be divided among {self.num_heads} attention heads"
            )
        if self.kv_heads < 1 or self.num_heads % self.kv_heads:
            raise ValueError(
                f"{self.kv_heads} heads of key and value cannot serve {self.num_heads} heads of the query"
            )

    @property
    def head_width(self) -> int:
        """H."""
        return self.own_head_width or self.width // self.num_heads

    @property
    def kv_heads(self) -> int:
        """K."""
        return self.num_heads if self.num_key_value_heads is None else self.num_key_value_heads

    def make_norm(self, width: int) -> Norm:
        """A norm of vectors of ``width``."""
        if self.norm == "layer":
            return nn.LayerNorm(width, eps=self.norm_eps, bias=self.norm_bias)
        kind = nn.RMSNorm if self.norm == "rms" else RMSNormFromOne
        return kind(width, eps=self.norm_eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerConfig:
    """The settings in which the layers of an encoder differ."""

    window: Window = WHOLE_TEXT
    """The tokens of its text that a token attends to."""
    rotary: Rotary | None = None
    """The rotary embedding; None: there is none."""
    has_attention_norm: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeConfig:
    """The settings of disentangled attention (He et al., 2021, DeBERTa, arXiv 2006.03654)."""

    span: int
    """Relative positions in one direction; the table has twice as many rows."""
    num_buckets: int
    """Log buckets of distances in one direction; 0: each distance has a position of its own."""
    max_distance: int
    """Distance whose log bucket is the last."""
    has_key: bool
    """Whether queries are compared with relative positions (content to position)."""
    has_query: bool
    """Whether relative positions are compared with keys (position to content)."""
    is_shared: bool
    """Whether query and key of the layer also project relative positions; else each has a projection of its own."""
    has_norm: bool
    """Whether a norm follows the table."""
    dropout: float

    def row_of(self, distance: Tensor) -> Tensor:
        """Rows of the table for distances, query position less key position, int64."""
        if self.num_buckets:
            distance = log_bucket(distance, self.num_buckets, self.max_distance)
        return (distance + self.span).clamp(0, 2 * self.span - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionConfig:
    """The settings of the convolution of DeBERTa-v2-xlarge."""

    size: int
    """Number of tokens that it reads, which is odd."""
    activation: str
    dropout: float


class BlankLinear(nn.Linear):
    """A linear layer whose weights come from a file.

    Skipping initialisation saves time: for it, torch would import its compiler.
    """

    def reset_parameters(self) -> None:
        """Leave the weights uninitialised."""


class BlankEmbedding(nn.Embedding):
    """An embedding table whose weights come from a file."""

    def reset_parameters(self) -> None:
        """Leave the weights uninitialised."""


class BlankConv(nn.Conv1d):
    """A convolution whose weights come from a file."""

    def reset_parameters(self) -> None:
        """Leave the weights uninitialised."""


class RMSNormFromOne(nn.RMSNorm):
    """RMSNorm whose factor is one plus the weight, in fp32 (Gemma)."""

    def forward(self, x: Tensor) -> Tensor:
        """``x / rms(x) * (1 + weight)``."""
        normed = F.rms_norm(x.float(), self.normalized_shape, 1 + self.weight.float(), self.eps)
        return normed.to(x.dtype)


class Encoder(nn.Module):
    """Embeddings and layers. `Embeddings` and `EncoderLayer` hold the weights; `kernels` compute.

    Args:
        config: shape of the encoder.
        stream: generator of all dropout masks.
    """

    def __init__(self, config: EncoderConfig, stream: DropoutStream) -> None:
        super().__init__()
        self.config = config
        self.kernels: Kernels = Reference()
        self.embeddings = Embeddings(config, stream)
        if config.embedding_width != config.width:
            self.embedding_proj = BlankLinear(config.embedding_width, config.width)
        if config.distance_buckets:
            self.distances = BlankEmbedding(config.distance_buckets, config.num_heads)
        if config.relative:
            self.relative_table = BlankEmbedding(2 * config.relative.span, config.width)
            self.relative_norm: nn.Module = nn.Identity()
            if config.relative.has_norm:
                self.relative_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.layers = nn.ModuleList(EncoderLayer(config, layer, stream) for layer in config.layers)
        if config.convolution:
            self.convolution = Convolution(config, config.convolution, stream)
        if config.norm_first:
            self.final_norm = config.make_norm(config.width)

    def use(self, kernels: Kernels) -> None:
        """Compute with ``kernels`` from now on; the frozen weights must not change afterwards."""
        self.kernels = kernels
        for layer in self.encoder_layers():
            layer.prepared = kernels.prepare(layer)

    def encoder_layers(self) -> Iterator[EncoderLayer]:
        """The layers, from first to last."""
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            yield layer

    def forward(self, batch: PackedBatch, *, only_first: bool) -> Tensor:
        """Hidden states of the last layer, in the encoder's dtype.

        The first token is the last if ``config.reads_last``.

        Args:
            batch: T tokens of S texts, on the encoder's device.
            only_first: whether only the first token of each text is needed.

        Returns:
            ``(S, D)`` of first tokens with ``only_first``, else ``(T, D)``.
        """
        x_TD, layout = self._embed(batch)
        x_TD = self._through(list(self.encoder_layers()), x_TD, layout, only_first=only_first)
        if self.config.norm_first:
            x_TD = self.final_norm(x_TD)
        return x_TD if only_first else x_TD[: batch.num_tokens]

    @torch.no_grad()
    def inputs_of_last_query(self, batch: PackedBatch) -> Tensor:
        """Inputs of the last layer's query for the token that is read, ``(S, D)`` in the encoder's dtype."""
        *lower, last = self.encoder_layers()
        x_TD, layout = self._embed(batch)
        x_SD = self._through(lower, x_TD, layout, only_first=True) if lower else x_TD[layout.first_tokens]
        normed: Tensor = last.attention_norm(x_SD) if last.norm_first else x_SD
        return normed

    def _through(
        self, layers: list[EncoderLayer], x_TD: Tensor, layout: Layout, *, only_first: bool
    ) -> Tensor:
        """The first layers of the encoder, with the convolution beside the first of them, if there is one."""
        compute = self.kernels.layers if torch.is_grad_enabled() else self.kernels.layers_without_gradients
        if not self.config.convolution:
            return compute(layers, x_TD, layout, only_first=only_first)
        first, *others = layers
        x_TD = self.convolution(x_TD, compute([first], x_TD, layout, only_first=False), layout)
        if others:
            return compute(others, x_TD, layout, only_first=only_first)
        return x_TD[layout.first_tokens] if only_first else x_TD

    def _embed(self, batch: PackedBatch) -> tuple[Tensor, Layout]:
        """The inputs ``(T, D)`` of the first layer, with spare tokens after those of the texts."""
        # oneDNN compiles a kernel for each new shape (`packing.layout`); the spare tokens belong to no text
        spare = -batch.num_tokens % TOKEN_MULTIPLE if batch.input_ids.device.type == "cpu" else 0
        ids = [batch.input_ids, batch.token_type_ids, batch.position_ids]
        if self.config.reads_last:
            backwards = reversed_texts(batch)
            ids = [each[backwards] for each in ids]
        input_ids, types, positions = (F.pad(each, (0, spare)) for each in ids)
        # a tokenizer may know more types than the encoder
        types = types.clamp(max=max(0, self.config.token_types - 1))
        layout = Layout(batch.lengths, batch.cu_seqlens, positions)
        if self.config.distance_buckets:
            layout.distance_bias = self._distance_bias(layout.max_seqlen)
        if self.config.relative:
            layout.relative = self._relative_positions(self.config.relative, layout.max_seqlen)
        x_TD = self.kernels.embed(self.embeddings, input_ids, types, positions)
        if self.config.embedding_width != self.config.width:
            x_TD = self.embedding_proj(x_TD)
        return x_TD, layout

    def _distance_bias(self, longest: int) -> DistanceBias:
        """The bias that each head adds to attention scores, by distance of query and key (Raffel et al., 2020, T5)."""
        reach = block_width(longest)
        table = self.distances.weight.detach()
        after = torch.arange(reach - 1, -reach, -1, device=table.device)  # key position less query position
        return DistanceBias(table[relative_position_bucket(after, len(table))].float().T.contiguous())

    def _relative_positions(self, config: RelativeConfig, longest: int) -> RelativePositions:
        """The rows of the table for the distances that occur in texts of up to ``longest`` tokens."""
        weight, reach = self.relative_table.weight, block_width(longest)
        row_of = config.row_of(torch.arange(1 - reach, reach + 1, device=weight.device))
        first, last = int(row_of[0]), int(row_of[-1])  # rows grow with the distance
        return RelativePositions(self.relative_norm(weight[first : last + 1]), row_of - first)


def reversed_texts(batch: PackedBatch) -> Tensor:
    """The tokens of a batch with each text read from its end: ``(T,)`` int64."""
    lengths = batch.cu_seqlens.diff().long()
    ends = batch.cu_seqlens[:-1].long() + batch.cu_seqlens[1:].long() - 1
    total = len(batch.input_ids)
    return torch.repeat_interleave(ends, lengths, output_size=total) - torch.arange(total, device=ends.device)


class Convolution(nn.Module):
    """A convolution over the embeddings of each text, added to the output of the first layer (DeBERTa-v2-xlarge)."""

    def __init__(self, config: EncoderConfig, own: ConvolutionConfig, stream: DropoutStream) -> None:
        super().__init__()
        self.conv = BlankConv(config.width, config.width, own.size, padding=own.size // 2)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = PooledDropout(own.dropout, stream)
        self.activation = ACTIVATIONS[own.activation]

    def forward(self, embedded_TD: Tensor, x_TD: Tensor, layout: Layout) -> Tensor:
        """``LayerNorm(x + activation(dropout(conv(embedded))))``, with zeros around each text: ``(T, D)``."""
        lengths = layout.cu_seqlens.diff().long()
        starts, ends = (
            torch.repeat_interleave(each.long(), lengths, output_size=layout.num_tokens)
            for each in (layout.cu_seqlens[:-1], layout.cu_seqlens[1:])
        )
        place = torch.arange(layout.num_tokens, device=x_TD.device)
        reach = self.conv.kernel_size[0] // 2
        read = []
        for offset in range(-reach, reach + 1):
            at = place + offset
            is_inside = (at >= starts) & (at < ends)
            read.append(embedded_TD[at.clamp(0, layout.num_tokens - 1)] * is_inside[:, None])
        by_token = F.linear(
            torch.cat(read, dim=1), self.conv.weight.transpose(1, 2).flatten(1), self.conv.bias
        )
        convolved = self.activation(self.dropout(by_token))
        spare = x_TD[layout.num_tokens :]
        normed: Tensor = self.norm(torch.cat([x_TD[: layout.num_tokens] + convolved, spare]))
        return normed


class Embeddings(nn.Module):
    """The tables of words, positions and token types, and the norm of their sum."""

    def __init__(self, config: EncoderConfig, stream: DropoutStream) -> None:
        super().__init__()
        width = config.embedding_width
        self.word: nn.Embedding = BlankEmbedding(config.vocab_size, width)
        self.position: nn.Embedding | None = (
            BlankEmbedding(config.max_positions, width) if config.max_positions else None
        )
        self.token_type: nn.Embedding | None = (
            BlankEmbedding(config.token_types, width) if config.token_types else None
        )
        self.norm: Norm = config.make_norm(width) if config.norms_embeddings else nn.Identity()
        self.dropout = PooledDropout(config.embedding_dropout, stream)
        self.scale = config.embedding_scale


class EncoderLayer(nn.Module):
    """The weights and settings of one layer: attention and a feed-forward block.

    Query, key and value are three linear layers, or one with their outputs side by side. So are the two halves of a
    gated feed-forward block.
    """

    def __init__(self, config: EncoderConfig, layer: LayerConfig, stream: DropoutStream) -> None:
        super().__init__()
        width, heads, bias = config.width, config.num_heads * config.head_width, config.attention_bias
        shared = config.kv_heads * config.head_width
        self.is_fused, self.is_gated = config.is_fused, config.is_gated
        if config.is_fused:
            self.qkv: Linear = BlankLinear(width, heads + 2 * shared, bias=bias)
        else:
            self.query: Linear = BlankLinear(width, heads, bias=bias)
            self.key: Linear = BlankLinear(width, shared, bias=bias)
            self.value: Linear = BlankLinear(width, shared, bias=bias)
        self.relative = relative = config.relative
        if relative and not relative.is_shared:
            if relative.has_key:
                self.relative_key: Linear = BlankLinear(width, width)
            if relative.has_query:
                self.relative_query: Linear = BlankLinear(width, width)
        self.relative_dropout = PooledDropout(relative.dropout if relative else 0.0, stream)
        out_bias = bias if config.out_bias is None else config.out_bias
        self.out_proj: Linear = BlankLinear(heads, width, bias=out_bias)
        inner = config.inner_width
        if config.is_gated and not config.is_fused:
            self.gate_proj: Linear = BlankLinear(width, inner, bias=config.mlp_bias)
        halves = 2 if config.is_gated and config.is_fused else 1
        self.up_proj: Linear = BlankLinear(width, halves * inner, bias=config.mlp_bias)
        self.down_proj: Linear = BlankLinear(inner, width, bias=config.mlp_bias)
        self.attention_norm = config.make_norm(width) if layer.has_attention_norm else nn.Identity()
        self.mlp_norm = config.make_norm(width)
        self.query_norm, self.key_norm = (
            config.make_norm(config.head_width) if config.norms_heads else nn.Identity() for _ in range(2)
        )
        self.attention_out_norm, self.mlp_out_norm = (
            config.make_norm(width) if config.norms_outputs else nn.Identity() for _ in range(2)
        )
        self.attention_dropout = PooledDropout(config.attention_dropout, stream)
        self.out_dropout = PooledDropout(config.out_dropout, stream)
        self.down_dropout = PooledDropout(config.down_dropout, stream)
        self.inner_dropout = PooledDropout(config.inner_dropout, stream)
        self.num_heads, self.num_key_value_heads = config.num_heads, config.kv_heads
        self.head_width, self.activation = config.head_width, config.activation
        self.score_scale, self.norm_first = config.score_scale, config.norm_first
        self.window = layer.window.reversed() if config.reads_last else layer.window
        self.rotary = layer.rotary
        self.prepared: Any = None

    @property
    def projections(self) -> tuple[Linear, ...]:
        """The layers whose concatenated outputs are the heads of query, key and value, ``(T, (N + 2 K) H)``."""
        return (self.qkv,) if self.is_fused else (self.query, self.key, self.value)

    @property
    def up_projections(self) -> tuple[Linear, ...]:
        """The first layers of the feed-forward block: ``(T, F)``, or gated ``(T, 2 F)``."""
        return (self.up_proj,) if self.is_fused or not self.is_gated else (self.gate_proj, self.up_proj)

    @property
    def relative_projections(self) -> tuple[Linear | None, Linear | None]:
        """The layers that turn relative embeddings into keys and into queries; None for a term that is left out."""
        how = self.relative
        if how is None:
            return None, None
        if how.is_shared:
            return self.key if how.has_key else None, self.query if how.has_query else None
        return self.relative_key if how.has_key else None, self.relative_query if how.has_query else None
