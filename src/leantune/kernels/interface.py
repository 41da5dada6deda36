"""The interface of the kernels: embeddings, layers, and layers without a graph.

`reference.Reference` implements it in plain torch; it is the specification, and works on every device and dtype.
`native.kernels.Native` implements it with the C library, for bf16 on a CPU. `choose.choose_kernels` picks one of them
when a model is built.

T packed tokens, S texts, D model width, F inner width, N heads of H width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from leantune.adalora.layer import AdaLoraLinear
from leantune.adalora.multi_lora import MultiLoraLinear
from leantune.packing.dropout import PooledDropout
from leantune.packing.layout import Layout, Window
from leantune.packing.positions import Rotary

SWITCH = "LEANTUNE_NATIVE"
"""Environment variable: ``0`` turns the native kernels off."""
Linear = nn.Linear | AdaLoraLinear | MultiLoraLinear
"""A linear layer of an encoder: frozen, with a trainable update, or with an update per text."""
Norm = nn.LayerNorm | nn.RMSNorm | nn.Identity
"""A norm of an encoder, or none."""


class EmbeddingsLike(Protocol):
    """The attributes of `model.encoder.Embeddings` that the kernels read."""

    word: nn.Embedding
    position: nn.Embedding | None
    token_type: nn.Embedding | None
    norm: Norm
    dropout: PooledDropout
    scale: float
    """Factor of word embeddings."""


class LayerLike(Protocol):
    """The attributes of `model.encoder.EncoderLayer` that the kernels read."""

    @property
    def projections(self) -> tuple[Linear, ...]:
        """The layers whose concatenated outputs are the heads of query, key and value, ``(T, (N + 2 K) H)``."""

    @property
    def up_projections(self) -> tuple[Linear, ...]:
        """The first layers of the feed-forward block, whose concatenated outputs are ``(T, F)``.

        Gated, they are ``(T, 2 F)``: the first half is activated, and multiplied by the other half.
        """

    @property
    def relative_projections(self) -> tuple[Linear | None, Linear | None]:
        """The layers that turn relative embeddings into keys and into queries; None for a term that is left out."""

    relative_dropout: PooledDropout
    """Dropout of relative embeddings."""
    out_proj: Linear
    down_proj: Linear
    attention_norm: Norm
    query_norm: Norm
    """Norm of each head of the query."""
    key_norm: Norm
    """Norm of each head of the key."""
    attention_out_norm: Norm
    """Norm of the output of attention, before the residual sum."""
    mlp_norm: Norm
    mlp_out_norm: Norm
    """Norm of the output of the feed-forward block, before the residual sum."""
    attention_dropout: PooledDropout
    """Dropout of attention weights."""
    out_dropout: PooledDropout
    """Dropout after ``out_proj``."""
    down_dropout: PooledDropout
    """Dropout after ``down_proj``."""
    inner_dropout: PooledDropout
    """Dropout after a gated activation."""
    head_width: int
    num_heads: int
    """N, the heads of the query."""
    num_key_value_heads: int
    """K, the heads of key and value; each serves N / K neighbouring heads of the query."""
    score_scale: float
    """Factor of attention scores besides ``1 / sqrt(H)``."""
    activation: str
    """A name in `reference.ACTIVATIONS`."""
    is_gated: bool
    """Whether ``up_projections`` output twice the inner width."""
    norm_first: bool
    """Whether norms precede their blocks instead of following the residual sums."""
    window: Window
    """The tokens of its text that a token attends to."""
    rotary: Rotary | None
    """The rotary embedding; None: there is none."""
    prepared: Any
    """Whatever `Kernels.prepare` made from the frozen weights."""


class Kernels(ABC):
    """Operations of an encoder on packed tokens."""

    name: str
    """Name of the kernels in ``record.json``."""
    mixes_lengths: bool
    """Whether a batch may mix texts of any length without extra cost."""
    train_int8: bool = False
    """Whether products with frozen weights are in int8 when a graph is built."""
    predict_int8: bool = False
    """Whether products with frozen weights are in int8 when no graph is built."""

    def prepare(self, layer: LayerLike) -> Any:
        """Prepare data derived from a layer's frozen weights, which must not change afterwards."""
        return None

    @abstractmethod
    def embed(
        self, embeddings: EmbeddingsLike, input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor
    ) -> Tensor:
        """``dropout(norm(scale * word + token type + position))`` of ids ``(T,)`` int64: ``(T, D)``."""

    @abstractmethod
    def layers(
        self, layers: Sequence[LayerLike], x_TD: Tensor, layout: Layout, *, only_first: bool
    ) -> Tensor:
        """Compute all layers in order, with a graph for the backward pass.

        Args:
            layers: layers of the encoder, from first to last.
            x_TD: ``(T, D)`` embeddings; spare tokens after those of the texts are computed but never read.
            layout: layout of the batch.
            only_first: whether only the first token of each text is read at the end.

        Returns:
            ``(T, D)``, or ``(S, D)`` of first tokens.
        """

    def layers_without_gradients(
        self, layers: Sequence[LayerLike], x_TD: Tensor, layout: Layout, *, only_first: bool
    ) -> Tensor:
        """Compute `layers` without a graph."""
        return self.layers(layers, x_TD, layout, only_first=only_first)


def frozen(layer: Linear) -> nn.Linear:
    """The frozen linear layer of ``layer``, without its update."""
    return layer if isinstance(layer, nn.Linear) else layer.base
