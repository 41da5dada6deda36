"""A text classifier on packed batches: an encoder, its adapters and a head.

Modules and parameters have the names of transformers' ``*ForSequenceClassification``, whatever they are called
internally. Plans, records, checkpoints and adapters use these names.

T packed tokens, S texts, D model width, C classes.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leantune.adalora.layer import AdaLoraLinear
from leantune.data.tokens.dataset import LabelledRows
from leantune.kernels.choose import Choice, choose_kernels
from leantune.kernels.reference import Reference
from leantune.model.encoder import Encoder, EncoderConfig
from leantune.model.family import Family, Settings
from leantune.model.head import Head
from leantune.packing.batch import PackedBatch, pack
from leantune.packing.dropout import DropoutStream
from leantune.system.hardware import DTYPES


class Classifier(nn.Module, ABC):
    """The interface of a classifier for training, evaluation and prediction.

    Args:
        settings: ``config.json`` of the transformers model.
        stream: generator of all dropout masks.
    """

    is_packed: bool
    """Whether texts are packed without padding; otherwise each is padded to the longest of its batch."""
    position_offset: int
    """Position id of a text's first token."""
    prefix: str
    """Name of the encoder in transformers' classifier."""
    output_name: str
    """Name of the output layer in transformers' classifier."""

    def __init__(self, settings: Settings, stream: DropoutStream) -> None:
        super().__init__()
        self.settings = dict(settings)
        self.stream = stream

    @property
    @abstractmethod
    def output_layer(self) -> nn.Linear:
        """The last layer of the head, with a row for each class."""

    @abstractmethod
    def set_output_layer(self, layer: nn.Linear) -> None:
        """Replace the output layer."""

    @property
    @abstractmethod
    def mixes_lengths(self) -> bool:
        """Whether a batch may mix texts of any length without extra cost, because nothing is padded."""

    @abstractmethod
    def features(self, batch: PackedBatch) -> Tensor:
        """The inputs of the output layer for every text: ``(S, D)`` fp32, in the order of ``batch.rows``."""

    @abstractmethod
    def named_modules_with_weights(self) -> dict[str, nn.Module]:
        """The smallest modules that hold parameters, by name and in order; an adapted layer counts as one."""

    @abstractmethod
    def replace(self, name: str, module: nn.Module) -> None:
        """Replace the module called ``name`` by ``module``."""

    @abstractmethod
    def encoder_linears(self) -> dict[str, nn.Module]:
        """The linear layers of the encoder's blocks by name, adapted or not; these can get adapters."""

    @property
    @abstractmethod
    def attention_targets(self) -> tuple[str, ...]:
        """Last parts of the names of query and value, or of the one layer that computes both."""

    @property
    @abstractmethod
    def pooler_names(self) -> tuple[str, ...]:
        """Modules inside the encoder that only the head uses; they are trained if pretrained weights lack them."""

    @property
    def pooling_query(self) -> str | None:
        """Name of the last layer's query, if the head reads what the first token attends to; otherwise None."""
        return None

    def inputs_of_pooling_query(self, batch: PackedBatch) -> Tensor:
        """The inputs of `pooling_query` for first tokens: ``(S, D)`` in the encoder's dtype."""
        raise NotImplementedError

    @abstractmethod
    def set_encoder_dtype(self, dtype: torch.dtype) -> None:
        """Convert the encoder's weights to ``dtype``; the head stays in fp32."""

    def choose_kernels(self, *, train_int8: bool = False, predict_int8: bool = False) -> Choice:
        """Choose the kernels that compute the encoder; its frozen weights must not change afterwards.

        Args:
            train_int8: compute products with frozen weights in int8 while training, if possible.
            predict_int8: the same without gradients.
        """
        return Choice(Reference(), "transformers' own model, padded")

    def batch_of(self, rows: LabelledRows) -> PackedBatch:
        """Pack all ``rows`` into one batch on the classifier's device."""
        batch = pack(
            rows.tokens(),
            np.arange(len(rows)),
            labels=rows.label_ids,
            second_starts=rows.second_starts(),
            position_offset=self.position_offset,
        )
        return batch.to(self.device)

    def logits(self, features_SD: Tensor) -> Tensor:
        """The output layer: ``(S, D)`` to ``(S, C)`` fp32."""
        logits: Tensor = self.output_layer(features_SD)
        return logits

    def forward(self, batch: PackedBatch) -> Tensor:
        """Logits ``(S, C)`` fp32, in the order of ``batch.rows``."""
        return self.logits(self.features(batch))

    def with_own(self, num_labels: int, own: frozenset[str]) -> Classifier:
        """A copy that shares all parameters except those named in ``own``, with a new output layer."""
        shared = (weight for name, weight in self.named_weights().items() if name not in own)
        # deepcopy treats what its memo holds as already copied
        memo = {id(each): each for each in (*shared, *self.buffers(), *self.prepared())}
        copied = copy.deepcopy(self, memo)
        old = self.output_layer
        copied.set_output_layer(
            nn.Linear(old.in_features, num_labels, bias=old.bias is not None)
            .to(self.device)
            .requires_grad_(False)
        )
        return copied

    def prepared(self) -> Iterator[object]:
        """What kernels made from frozen weights; copies of the classifier share it."""
        return iter(())

    @property
    def max_tokens(self) -> int | None:
        """Largest number of tokens in a text, limited by positions; None if unlimited (XLNet's config says -1)."""
        positions = self.settings.get("max_position_embeddings")
        return None if positions is None or positions < 1 else int(positions) - self.position_offset

    @property
    def encoder_precision(self) -> str:
        """Dtype of the encoder's weights: ``fp32``, ``bf16`` or ``fp16``."""
        weights = (p for name, p in self.named_weights().items() if name.startswith(f"{self.prefix}."))
        dtype = next(weights).dtype
        return next(name for name, each in DTYPES.items() if each == dtype)

    @property
    def kernels_name(self) -> str:
        """Name of the kernels that compute the encoder."""
        return "transformers"

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.output_layer.weight.device

    def named_weights(self) -> dict[str, nn.Parameter]:
        """All parameters by name."""
        return {
            f"{name}.{sub}": parameter
            for name, module in self.named_modules_with_weights().items()
            for sub, parameter in module.named_parameters()
        }

    def adapted_layers(self) -> dict[str, AdaLoraLinear]:
        """The layers with adapters by name."""
        modules = self.named_modules_with_weights().items()
        return {name: module for name, module in modules if isinstance(module, AdaLoraLinear)}

    def trainable(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name."""
        return {name: p for name, p in self.named_weights().items() if p.requires_grad}

    def num_trainable(self) -> int:
        """Current number of trainable parameters."""
        return sum(p.numel() for p in self.trainable().values())

    def head_names(self) -> tuple[str, ...]:
        """Names of the modules outside the encoder that have weights, as in transformers' classifier."""
        outside = (n for n in self.named_weights() if not n.startswith(f"{self.prefix}."))
        return tuple(dict.fromkeys(name.partition(".")[0] for name in outside))

    def head_weights(self, head: str, missing_modules: tuple[str, ...] = ()) -> dict[str, nn.Parameter]:
        """The parameters that belong to the head, by name.

        Args:
            head: ``full`` for the whole head, or ``linear`` for the output layer alone.
            missing_modules: members of `pooler_names` that pretrained weights lack; they are trained too.
        """
        names = (self.output_name,) if head == "linear" else self.head_names()
        places = tuple(f"{name}." for name in (*names, *missing_modules))
        return {name: weight for name, weight in self.named_weights().items() if name.startswith(places)}


class PackedClassifier(Classifier):
    """A classifier with our own encoder and head.

    Args:
        family: the model's family.
        settings: the model's ``config.json``.
        stream: generator of all dropout masks.
    """

    is_packed = True

    def __init__(self, family: Family, settings: Settings, stream: DropoutStream) -> None:
        super().__init__(settings, stream)
        config = family.encoder_config(settings)
        padding = settings.get("pad_token_id")
        if padding is not None and not 0 <= padding < config.vocab_size:
            raise ValueError(
                f"pad_token_id {padding} is outside the vocabulary of {config.vocab_size} tokens"
            )
        self.encoder = Encoder(config, stream)
        self.head = Head(family.head_config(settings), stream)
        self.prefix, self.position_offset = family.prefix, config.position_offset
        self.output_name = family.head["output"]
        self._own_names = _own_names(self, family, config)

    @property
    def output_layer(self) -> nn.Linear:
        """The last layer of the head."""
        return self.head.output

    def set_output_layer(self, layer: nn.Linear) -> None:
        """Replace the last layer of the head."""
        self.head.output = layer

    def prepared(self) -> Iterator[object]:
        """The packed weights of all layers."""
        return (layer.prepared for layer in self.encoder.encoder_layers())

    @property
    def mixes_adapters(self) -> bool:
        """Whether texts of a batch may have adapters of their own.

        Not with disentangled attention: the adapters of query and key also change the relative embeddings, which all
        texts share. Not with a head that reads all tokens after its dense layer, which each adapter may replace.
        """
        return self.encoder.config.relative is None and self.head.pooling != "late mean"

    @property
    def kernels_name(self) -> str:
        """Name of the kernels that compute the encoder."""
        return self.encoder.kernels.name

    @property
    def mixes_lengths(self) -> bool:
        """Whether the kernels need no padding in attention either."""
        return self.encoder.kernels.mixes_lengths

    @property
    def attention_targets(self) -> tuple[str, ...]:
        """Last parts of the names of query and value."""
        own = ("qkv",) if self.encoder.config.is_fused else ("query", "value")
        theirs = (name for name, ours in self._own_names.items() if ours.rpartition(".")[2] in own)
        return tuple(dict.fromkeys(name.rpartition(".")[2] for name in theirs))

    @property
    def pooler_names(self) -> tuple[str, ...]:
        """The module around the head's dense layer, if transformers has it inside the encoder."""
        inside = (name for name in self.places_in_head if name.startswith(f"{self.prefix}."))
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in inside))

    @property
    def places_in_head(self) -> dict[str, str]:
        """Modules of the head that have weights: from transformers' name to the path in `Head`."""
        return {
            theirs: ours.removeprefix("head.")
            for theirs, ours in self._own_names.items()
            if ours.startswith("head.")
        }

    def features(self, batch: PackedBatch) -> Tensor:
        """The inputs of the output layer, ``(S, D)`` fp32."""
        return self.head.features(self.encoder(batch, only_first=self.head.reads_one), batch)

    def named_modules_with_weights(self) -> dict[str, nn.Module]:
        """The modules with weights, by transformers' names."""
        return {theirs: self.get_submodule(ours) for theirs, ours in self._own_names.items()}

    def replace(self, name: str, module: nn.Module) -> None:
        """Replace the module that transformers calls ``name`` by ``module``."""
        self.set_submodule(self._own_names[name], module)

    def encoder_linears(self) -> dict[str, nn.Module]:
        """All linear layers of the encoder's blocks."""
        return {
            name: module
            for name, module in self.named_modules_with_weights().items()
            if self._own_names[name].startswith("encoder.layers.")
            and isinstance(module, nn.Linear | AdaLoraLinear)
        }

    @property
    def pooling_query(self) -> str | None:
        """Name of the last layer's query.

        None if the head reads all tokens, if query, key and value are one layer, or if scores do not depend on the
        query alone.
        """
        config = self.encoder.config
        if not self.head.reads_one or config.is_fused or config.relative:
            return None
        ours = f"encoder.layers.{len(self.encoder.layers) - 1}.query"
        return next(theirs for theirs, own in self._own_names.items() if own == ours)

    def inputs_of_pooling_query(self, batch: PackedBatch) -> Tensor:
        """The inputs of `pooling_query` for first tokens, ``(S, D)``."""
        return self.encoder.inputs_of_last_query(batch)

    def set_encoder_dtype(self, dtype: torch.dtype) -> None:
        """Convert all weights of the encoder."""
        self.encoder.to(dtype)

    def choose_kernels(self, *, train_int8: bool = False, predict_int8: bool = False) -> Choice:
        """Choose kernels by the encoder's dtype, device and widths."""
        layers = list(self.encoder.encoder_layers())
        choice = choose_kernels(
            self.encoder.embeddings, layers, train_int8=train_int8, predict_int8=predict_int8
        )
        self.encoder.use(choice.kernels)
        return choice


def _own_names(classifier: nn.Module, family: Family, config: EncoderConfig) -> Mapping[str, str]:
    """Map names in transformers' classifier to ours, for the modules that this classifier has."""
    found: dict[str, Any] = {}
    for ours, theirs in family.names(config).items():
        try:
            module = classifier.get_submodule(ours)
        except AttributeError:  # only some models of the family have this part
            continue
        if any(True for _ in module.parameters()):
            found[theirs] = ours
    return found
