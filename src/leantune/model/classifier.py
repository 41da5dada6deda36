"""A text classifier on packed batches: an encoder, its adapters and a head.

Modules and parameters are named as transformers' ``*ForSequenceClassification`` names them, which is what plans,
records, checkpoints and adapters hold, whatever they are called inside.

T packed tokens, S texts, D model width, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leantune.adalora.layer import AdaLoraLinear
from leantune.data.tokens.dataset import LabelledRows
from leantune.kernels.choose import Choice, choose_kernels
from leantune.kernels.reference import Reference
from leantune.model.encoder import Encoder, EncoderConfig
from leantune.model.families import Family, Settings
from leantune.model.head import Head, mean_tokens
from leantune.packing.batch import PackedBatch, pack
from leantune.packing.dropout import DropoutStream
from leantune.system.hardware import DTYPES


class Classifier(nn.Module, ABC):
    """What training, evaluation and prediction know of a classifier.

    Args:
        settings: the ``config.json`` of transformers that it was made from.
        stream: the generator of all dropout masks.
    """

    is_packed: bool
    """Whether texts are computed end to end; else each is padded to the longest of its batch."""
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

    @property
    @abstractmethod
    def mixes_lengths(self) -> bool:
        """Whether texts of any lengths make as good a batch as texts of one: nothing is padded anywhere."""

    @abstractmethod
    def features(self, batch: PackedBatch) -> Tensor:
        """What the output layer is given of every text: ``(S, D)`` fp32, in the order of ``batch.rows``."""

    @abstractmethod
    def named_modules_with_weights(self) -> dict[str, nn.Module]:
        """The smallest modules that hold parameters, an adapted layer whole, by name and in their order."""

    @abstractmethod
    def replace(self, name: str, module: nn.Module) -> None:
        """Put ``module`` where the module called ``name`` is."""

    @abstractmethod
    def encoder_linears(self) -> dict[str, nn.Module]:
        """The linear layers of the encoder's blocks by name, adapted or not: what can get an adapter."""

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
        """The query of the last layer by name, where the head reads what the first token attends to; None elsewhere."""
        return None

    def inputs_of_pooling_query(self, batch: PackedBatch) -> Tensor:
        """What `pooling_query` is given of first tokens: ``(S, D)`` of the encoder's type."""
        raise NotImplementedError

    @abstractmethod
    def set_encoder_dtype(self, dtype: torch.dtype) -> None:
        """Hold the encoder's weights in ``dtype``; the head stays in fp32."""

    def choose_kernels(self, *, train_int8: bool = False, predict_int8: bool = False) -> Choice:
        """Decide what computes the encoder from now on; its frozen weights must not change afterwards.

        Args:
            train_int8: whether products with frozen weights are to be in int8 while training, where that is possible.
            predict_int8: the same without gradients.
        """
        return Choice(Reference(), "transformers' own model, padded")

    def batch_of(self, rows: LabelledRows) -> PackedBatch:
        """All of ``rows`` as one packed batch on the device of the classifier."""
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

    @property
    def max_tokens(self) -> int | None:
        """Tokens that a text may have, for as many positions; None if there is no limit, for which XLNet says -1."""
        positions = self.settings.get("max_position_embeddings")
        return None if positions is None or positions < 1 else int(positions) - self.position_offset

    @property
    def encoder_precision(self) -> str:
        """``fp32``, ``bf16`` or ``fp16``: the type of the encoder's weights."""
        weights = (p for name, p in self.named_weights().items() if name.startswith(f"{self.prefix}."))
        dtype = next(weights).dtype
        return next(name for name, each in DTYPES.items() if each == dtype)

    @property
    def kernels_name(self) -> str:
        """What computes the encoder."""
        return "transformers"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
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
        """Trainable parameters now."""
        return sum(p.numel() for p in self.trainable().values())

    def head_names(self) -> tuple[str, ...]:
        """The modules outside the encoder that have weights, as transformers' classifier holds them."""
        outside = (n for n in self.named_weights() if not n.startswith(f"{self.prefix}."))
        return tuple(dict.fromkeys(name.partition(".")[0] for name in outside))

    def head_weights(self, head: str, missing_modules: tuple[str, ...] = ()) -> dict[str, nn.Parameter]:
        """The parameters that training the head means, by name.

        Args:
            head: ``full`` for all of it, or ``linear`` for the output layer alone.
            missing_modules: those of `pooler_names` that pretrained weights lack; they are trained, too.
        """
        names = (self.output_name,) if head == "linear" else self.head_names()
        places = tuple(f"{name}." for name in (*names, *missing_modules))
        return {name: weight for name, weight in self.named_weights().items() if name.startswith(places)}


class PackedClassifier(Classifier):
    """Our own encoder and head.

    Args:
        family: of the classifier.
        settings: its ``config.json``.
        stream: the generator of all dropout masks.
    """

    is_packed = True

    def __init__(self, family: Family, settings: Settings, stream: DropoutStream) -> None:
        super().__init__(settings, stream)
        config = family.encoder_config(settings)
        padding = settings.get("pad_token_id")
        if padding is not None and not 0 <= padding < config.vocab_size:
            raise ValueError(f"pad_token_id {padding} is no token of a vocabulary of {config.vocab_size}")
        self.encoder = Encoder(config, stream)
        self.head = Head(family.head_config(settings), stream)
        self.prefix, self.position_offset = family.prefix, config.position_offset
        self.output_name = family.head["output"]
        self._own_names = _own_names(self, family, config)

    @property
    def output_layer(self) -> nn.Linear:
        """The last layer of the head."""
        return self.head.output

    @property
    def kernels_name(self) -> str:
        """What computes the encoder."""
        return self.encoder.kernels.name

    @property
    def mixes_lengths(self) -> bool:
        """Whether the kernels pad nothing in attention either."""
        return self.encoder.kernels.mixes_lengths

    @property
    def attention_targets(self) -> tuple[str, ...]:
        """Last parts of the names of query and value."""
        own = ("qkv",) if self.encoder.config.is_fused else ("query", "value")
        theirs = (name for name, ours in self._own_names.items() if ours.rpartition(".")[2] in own)
        return tuple(dict.fromkeys(name.rpartition(".")[2] for name in theirs))

    @property
    def pooler_names(self) -> tuple[str, ...]:
        """The module around the head's dense layer where transformers has it inside the encoder."""
        inside = (name for name in self.places_in_head if name.startswith(f"{self.prefix}."))
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in inside))

    @property
    def places_in_head(self) -> dict[str, str]:
        """The modules of the head that have weights: transformers' name to the path in `Head`."""
        return {
            theirs: ours.removeprefix("head.")
            for theirs, ours in self._own_names.items()
            if ours.startswith("head.")
        }

    def features(self, batch: PackedBatch) -> Tensor:
        """``(S, D)`` fp32."""
        hidden = self.encoder(batch, only_first=not self.head.means_tokens)
        return self.head.features(mean_tokens(hidden, batch) if self.head.means_tokens else hidden)

    def named_modules_with_weights(self) -> dict[str, nn.Module]:
        """The modules by the names of transformers."""
        return {theirs: self.get_submodule(ours) for theirs, ours in self._own_names.items()}

    def replace(self, name: str, module: nn.Module) -> None:
        """Put ``module`` where transformers' classifier has ``name``."""
        self.set_submodule(self._own_names[name], module)

    def encoder_linears(self) -> dict[str, nn.Module]:
        """All that multiply in `EncoderLayer`."""
        return {
            name: module
            for name, module in self.named_modules_with_weights().items()
            if self._own_names[name].startswith("encoder.layers.")
            and isinstance(module, nn.Linear | AdaLoraLinear)
        }

    @property
    def pooling_query(self) -> str | None:
        """None for heads that read all tokens, and where one layer computes query, key and value."""
        if self.head.means_tokens or self.encoder.config.is_fused:
            return None
        ours = f"encoder.layers.{len(self.encoder.layers) - 1}.query"
        return next(theirs for theirs, own in self._own_names.items() if own == ours)

    def inputs_of_pooling_query(self, batch: PackedBatch) -> Tensor:
        """``(S, D)``."""
        return self.encoder.inputs_of_last_query(batch)

    def set_encoder_dtype(self, dtype: torch.dtype) -> None:
        """Change the type of all weights of the encoder."""
        self.encoder.to(dtype)

    def choose_kernels(self, *, train_int8: bool = False, predict_int8: bool = False) -> Choice:
        """Decide by type, device and widths of the encoder."""
        layers = list(self.encoder.encoder_layers())
        choice = choose_kernels(
            self.encoder.embeddings, layers, train_int8=train_int8, predict_int8=predict_int8
        )
        self.encoder.use(choice.kernels)
        return choice


def _own_names(classifier: nn.Module, family: Family, config: EncoderConfig) -> Mapping[str, str]:
    """Name in transformers' classifier to name in ours, of the modules that are there."""
    found: dict[str, Any] = {}
    for ours, theirs in family.names(config).items():
        try:
            module = classifier.get_submodule(ours)
        except AttributeError:  # a part that only some of the family have
            continue
        if any(True for _ in module.parameters()):
            found[theirs] = ours
    return found
