"""The head of a classifier: from one vector per text to one logit per class.

S texts, T packed tokens, D model width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from leantune.kernels.reference import ACTIVATIONS
from leantune.model.encoder import BlankLinear
from leantune.packing.batch import PackedBatch
from leantune.packing.dropout import DropoutStream, PooledDropout

Pooling = Literal["first", "mean", "late mean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """The settings in which the heads of `families` differ."""

    width: int
    """D."""
    num_labels: int
    """C."""
    activation: str | None
    """Activation after the dense layer; a name in `kernels.reference.ACTIVATIONS`. None: there is no dense layer."""
    dropout: float
    """Dropout before the output layer."""
    input_dropout: float = 0.0
    """Dropout before the dense layer."""
    pooling: Pooling = "first"
    """What becomes a text's vector: the token that is read, or the mean of all, before or after the dense layer."""
    dense_bias: bool = True
    has_norm: bool = False
    """Whether a norm follows the activation."""
    norm_eps: float = 1e-5
    norm_bias: bool = True
    output_bias: bool = True


class Head(nn.Module):
    """``output(dropout(norm(activation(dense(dropout(x))))))``, in fp32.

    Args:
        config: shape of the head.
        stream: generator of all dropout masks.
    """

    def __init__(self, config: HeadConfig, stream: DropoutStream) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.input_dropout = PooledDropout(config.input_dropout, stream)
        self.dense: nn.Module = nn.Identity()
        self.activation: Callable[[Tensor], Tensor] | None = None
        if config.activation is not None:
            self.dense = BlankLinear(config.width, config.width, bias=config.dense_bias)
            self.activation = ACTIVATIONS[config.activation]
        if config.has_norm:
            self.norm: nn.Module = nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.norm_bias)
        else:
            self.norm = nn.Identity()
        self.dropout = PooledDropout(config.dropout, stream)
        self.output: nn.Linear = BlankLinear(config.width, config.num_labels, bias=config.output_bias)

    @property
    def reads_one(self) -> bool:
        """Whether the head reads one token of each text."""
        return self.pooling == "first"

    def features(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """The inputs of the output layer, ``(S, D)`` fp32.

        Args:
            hidden: of any dtype, ``(S, D)`` if the head reads one token, else ``(T, D)``.
            batch: S texts.
        """
        if self.pooling == "late mean":
            return mean_tokens(self.features_of(hidden), batch)
        return self.features_of(self.pooled(hidden, batch))

    def pooled(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """The vector of each text before the dense layer, ``(S, D)``, from what `features` takes."""
        return mean_tokens(hidden, batch) if self.pooling == "mean" else hidden

    def features_of(self, pooled_SD: Tensor) -> Tensor:
        """All before the output layer, for each row: ``(S, D)`` of any dtype to ``(S, D)`` fp32."""
        hidden: Tensor = self.dense(self.input_dropout(pooled_SD.float()))
        if self.activation is not None:
            hidden = self.norm(self.activation(hidden))
        dropped: Tensor = self.dropout(hidden)
        return dropped


def mean_tokens(hidden_TD: Tensor, batch: PackedBatch) -> Tensor:
    """The mean vector of every text, ``(T, D)`` to ``(S, D)``, summed in fp32."""
    lengths = batch.cu_seqlens.diff().long()
    texts = torch.arange(batch.num_seqs, device=hidden_TD.device)
    text = torch.repeat_interleave(texts, lengths, output_size=len(hidden_TD))  # avoids a device sync
    sums = hidden_TD.new_zeros(batch.num_seqs, hidden_TD.shape[1], dtype=torch.float32)
    sums = sums.index_add(0, text, hidden_TD.float())
    return (sums / lengths[:, None]).to(hidden_TD.dtype)
