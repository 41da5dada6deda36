"""What an encoder asks of the code that computes it: embeddings, layers, and layers without a graph.

`reference.Reference` computes them in plain torch: it is the specification, and serves every device and type.
`native.kernels.Native` computes them by the C library, for bf16 on a CPU. Which of the two serves is decided once, when
a model is built (`choose.choose_kernels`).

T packed tokens, S texts, D model width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from leantune.adalora.layer import AdaLoraLinear
from leantune.adalora.multi_lora import MultiLoraLinear
from leantune.packing.dropout import PooledDropout
from leantune.packing.layout import Layout

SWITCH = "LEANTUNE_NATIVE"
"""Environment variable: ``0`` turns the native kernels off."""
Linear = nn.Linear | AdaLoraLinear | MultiLoraLinear
"""A linear layer of an encoder: frozen, with a trainable update, or with an update for each text."""


class EmbeddingsLike(Protocol):
    """What the kernels read of `model.encoder.Embeddings`."""

    word: nn.Embedding
    position: nn.Embedding | None
    token_type: nn.Embedding | None
    norm: nn.LayerNorm
    dropout: PooledDropout


class LayerLike(Protocol):
    """What the kernels read of `model.encoder.EncoderLayer`."""

    @property
    def projections(self) -> tuple[Linear, ...]:
        """The layers whose outputs, side by side, are query, key and value ``(T, 3 D)``."""

    out_proj: Linear
    up_proj: Linear
    down_proj: Linear
    attention_norm: nn.LayerNorm | nn.Identity
    mlp_norm: nn.LayerNorm
    attention_dropout: PooledDropout
    """Dropout of attention weights."""
    out_dropout: PooledDropout
    """Dropout after ``out_proj``."""
    down_dropout: PooledDropout
    """Dropout after ``down_proj``."""
    inner_dropout: PooledDropout
    """Dropout of what comes out of a gated activation."""
    head_width: int
    activation: str
    """A name of `reference.ACTIVATIONS`."""
    is_gated: bool
    """Whether ``up_proj`` gives twice the inner width: what is activated, and what that is multiplied by."""
    norm_first: bool
    """Whether norms are before their blocks and not after the sums."""
    window: int | None
    """A token sees those less than this many positions away; None: all of its text."""
    rotary_base: float | None
    """Theta of the rotary embedding; None: none."""
    prepared: Any
    """What `Kernels.prepare` made of the frozen weights."""


class Kernels(ABC):
    """The operations of an encoder on packed tokens."""

    name: str
    """As ``record.json`` has it."""
    mixes_lengths: bool
    """Whether texts of any lengths make as good a batch as texts of one."""
    train_int8: bool = False
    """Whether products with frozen weights are in int8 where a graph is made."""
    predict_int8: bool = False
    """The same where none is made."""

    def prepare(self, layer: LayerLike) -> Any:
        """What this implementation keeps beside a layer's frozen weights, which must not change afterwards."""
        return None

    @abstractmethod
    def embed(
        self, embeddings: EmbeddingsLike, input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor
    ) -> Tensor:
        """``dropout(LayerNorm(word + token type + position))`` of ids ``(T,)`` int64: ``(T, D)``."""

    @abstractmethod
    def layers(
        self, layers: Sequence[LayerLike], x_TD: Tensor, layout: Layout, *, only_first: bool
    ) -> Tensor:
        """All layers, one after the other, with a graph for the backward pass.

        Args:
            layers: of the encoder, the lowest first.
            x_TD: ``(T, D)`` embeddings; spare tokens behind those of the texts are computed and read by nobody.
            layout: of the batch.
            only_first: whether only the first token of each text is read at the end.

        Returns:
            ``(T, D)``, or ``(S, D)`` of first tokens.
        """

    def layers_without_gradients(
        self, layers: Sequence[LayerLike], x_TD: Tensor, layout: Layout, *, only_first: bool
    ) -> Tensor:
        """What `layers` computes, where no gradient is wanted."""
        return self.layers(layers, x_TD, layout, only_first=only_first)


def frozen(layer: Linear) -> nn.Linear:
    """The frozen linear layer, without its update."""
    return layer if isinstance(layer, nn.Linear) else layer.base
