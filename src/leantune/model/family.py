"""What a family of encoders is: how its ``config.json`` and its module names map to `Encoder` and `Head`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from leantune.model.encoder import EncoderConfig
from leantune.model.head import HeadConfig
from leantune.packing.positions import KeptFrequencies, Rotary

Settings = Mapping[str, Any]
"""The content of a ``config.json``; keys with transformers' default value may be absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Maps one family of transformers' ``*ForSequenceClassification`` to an encoder and a head."""

    prefix: str
    """Name of the encoder in the classifier; ``base_model_prefix`` in transformers."""
    encoder_config: Callable[[Settings], EncoderConfig]
    head_config: Callable[[Settings], HeadConfig]
    encoder: Mapping[str, str]
    """From a module of `Encoder` to its name after ``prefix``; ``{}`` is the number of a layer."""
    head: Mapping[str, str]
    """From a module of `Head` to its name in the classifier."""
    is_known: Callable[[Settings], bool] = lambda settings: True
    """Whether `Encoder` has the form that a ``config.json`` describes."""

    def names(self, config: EncoderConfig) -> dict[str, str]:
        """Map modules with weights from their name in `PackedClassifier` to their name in transformers."""
        found = {}
        per_layer = {ours: theirs for ours, theirs in self.encoder.items() if "{}" in ours}
        for ours, theirs in self.encoder.items():
            if ours not in per_layer:
                found[f"encoder.{ours}"] = f"{self.prefix}.{theirs}"
        for number in range(len(config.layers)):
            for ours, theirs in per_layer.items():
                found[f"encoder.{ours.format(number)}"] = f"{self.prefix}.{theirs.format(number)}"
        return found | {f"head.{ours}": theirs for ours, theirs in self.head.items()}


def num_labels_in(settings: Settings) -> int:
    """Number of classes in a config: the number it names, else two, as in transformers."""
    named = settings.get("id2label")
    return len(named) if named else int(settings.get("num_labels", 2))


def rotary_of(parameters: Settings) -> Rotary | None:
    """The rotary embedding that ``rope_parameters`` describe, with ``rope_theta``; None if `Rotary` has no such form.

    ``type`` is the old name of ``rope_type``.
    """
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    base, factor = parameters.get("rope_theta"), parameters.get("factor", 1.0)
    if not base or parameters.get("partial_rotary_factor", 1.0) != 1.0:
        return None
    if kind == "default":
        return Rotary(base)
    if kind == "linear":
        return Rotary(base, factor)
    if kind != "llama3":
        return None
    return Rotary(
        base,
        factor,
        KeptFrequencies(
            low=parameters["low_freq_factor"],
            high=parameters["high_freq_factor"],
            length=parameters["original_max_position_embeddings"],
        ),
    )
