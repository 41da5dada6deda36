"""Encoders of no known family: transformers' own model on padded batches, with the same interface.

T packed tokens, S texts, L tokens of the longest text, D model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from leantune.adalora.layer import AdaLoraLinear
from leantune.model.classifier import Classifier
from leantune.packing.batch import PackedBatch
from leantune.packing.dropout import DropoutStream

POOLERS = {"albert": ("albert.pooler",), "nomic_bert": ("nomic_bert.pooler",)}
"""Modules inside the encoder that only the head uses, by ``model_type``."""

ATTENTION_TARGETS = (
    *("query", "value", "q", "v", "query_proj", "value_proj", "q_proj", "v_proj", "q_lin", "v_lin"),
    *("Wqkv", "in_proj"),  # query, key and value as one
)
"""Last parts of the names of query and value in transformers' encoders."""


class PaddedClassifier(Classifier):
    """A transformers classifier with its output layer taken out, to give access to that layer's inputs.

    Args:
        model: a ``*ForSequenceClassification``; it is modified.
        stream: kept for its state in checkpoints; dropout of this model uses torch's own generator.

    Raises:
        ValueError: if the head has no linear layer with a row for each class.
    """

    is_packed = False
    mixes_lengths = False

    def __init__(self, model: Any, stream: DropoutStream) -> None:
        super().__init__(model.config.to_dict(), stream)
        self.model = model
        self.prefix = model.base_model_prefix
        self.position_offset = _position_offset(model)
        self.output_name, self.output = _output_layer(model)
        model.set_submodule(self.output_name, nn.Identity())

    @property
    def output_layer(self) -> nn.Linear:
        """The last layer of the head."""
        return self.output

    @property
    def attention_targets(self) -> tuple[str, ...]:
        """The known names of query and value that this model has."""
        own = {name.rpartition(".")[2] for name in self.encoder_linears()}
        return tuple(name for name in ATTENTION_TARGETS if name in own)

    @property
    def pooler_names(self) -> tuple[str, ...]:
        """Modules inside the encoder that only the head uses, by architecture."""
        return POOLERS.get(self.settings["model_type"], ())

    def features(self, batch: PackedBatch) -> Tensor:
        """The inputs of the output layer, ``(S, D)`` fp32."""
        lengths = batch.cu_seqlens.diff().long()
        place = torch.arange(batch.max_seqlen, device=self.device)
        is_real = place < lengths[:, None]
        index = batch.cu_seqlens[:-1, None].long() + torch.where(is_real, place, 0)
        padding = self.settings.get("pad_token_id") or 0
        input_ids = torch.where(is_real, batch.input_ids[index], padding)
        types = torch.where(is_real, batch.token_type_ids[index], 0)
        return self.padded_features(input_ids, is_real.long(), types)

    def padded_features(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Compute the inputs of the output layer: ``(S, L)`` int64 each to ``(S, D)`` fp32."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.settings.get("type_vocab_size", 0) > 1:
            inputs["token_type_ids"] = token_type_ids
        features: Tensor = self.model(**inputs).logits  # the output layer is replaced by the identity
        return features.float()

    def named_weights(self) -> dict[str, nn.Parameter]:
        """All parameters, by their names before the output layer was taken out."""
        named = {_plain(name): parameter for name, parameter in self.model.named_parameters()}
        return named | {f"{self.output_name}.{sub}": p for sub, p in self.output.named_parameters()}

    def named_modules_with_weights(self) -> dict[str, nn.Module]:
        """Modules without children, and adapted layers: linear layers, norms and embeddings."""
        found: dict[str, nn.Module] = {}
        inside: tuple[str, ...] = ()
        for name, module in self.model.named_modules():
            if name.startswith(inside or "\0"):
                continue
            if isinstance(module, AdaLoraLinear):
                inside = (*inside, f"{name}.")
            elif any(True for _ in module.children()) or not any(True for _ in module.parameters()):
                continue
            found[_plain(name)] = module
        return found | {self.output_name: self.output}

    def replace(self, name: str, module: nn.Module) -> None:
        """Put ``module`` into the transformers model."""
        self.model.set_submodule(name, module)

    def set_output_layer(self, layer: nn.Linear) -> None:
        """Replace the output layer."""
        self.output = layer

    def encoder_linears(self) -> dict[str, nn.Module]:
        """The linear layers in the encoder's numbered blocks, except those that only the head uses."""
        poolers = tuple(f"{name}." for name in self.pooler_names)
        return {
            name: module
            for name, module in self.named_modules_with_weights().items()
            if isinstance(module, nn.Linear | AdaLoraLinear)
            and name.startswith(f"{self.prefix}.")
            and not name.startswith(poolers or "\0")
            and any(part.isdigit() for part in name.split("."))
        }

    def set_encoder_dtype(self, dtype: torch.dtype) -> None:
        """Convert the encoder's parameters; its outputs become fp32 where they enter the head.

        Buffers keep their dtype, as when transformers loads a model: with rotary frequencies in bf16, distant tokens
        would be rotated by whole radians too much.
        """
        poolers = tuple(f"{name}." for name in self.pooler_names)
        for name, parameter in self.model.named_parameters():
            if name.startswith(f"{self.prefix}.") and not name.startswith(poolers or "\0"):
                parameter.data = parameter.data.to(dtype)
        if dtype == torch.float32:
            return
        for name in (*self.head_names(), *self.pooler_names):
            self.model.set_submodule(name, _InFloat(self.model.get_submodule(name)))


class _InFloat(nn.Module):
    """Wraps a part of the head and converts floating-point inputs to fp32, like its weights."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call ``wrapped`` with converted inputs."""
        return self.wrapped(*map(_in_float, args), **{name: _in_float(x) for name, x in kwargs.items()})


def _in_float(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.is_floating_point() else x


def _plain(name: str) -> str:
    """A parameter name without the levels that `_InFloat` adds."""
    return ".".join(part for part in name.split(".") if part != "wrapped")


def _output_layer(model: Any) -> tuple[str, nn.Linear]:
    """The last linear layer outside the encoder that has a row for each class, and its name."""
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == model.config.num_labels
        and not name.startswith(f"{model.base_model_prefix}.")
    ]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no linear output layer for {model.config.num_labels} classes"
        )
    return layers[-1]


def _position_offset(model: Any) -> int:
    """Position id of the first token: RoBERTa-like embeddings count from after the padding id."""
    padding: int | None = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)
    return 0 if padding is None else padding + 1
