"""A PEFT adapter folder in memory: AdaLoRA or LoRA, ours or PEFT's, of any version.

An adapter folder holds ``adapter_config.json`` and ``adapter_model.safetensors``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from leantune.adalora.triplets import Triplets
from leantune.errors import CheckpointError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
_ADAPTER_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AEB])(?:\.default)?(?:\.weight)?")
_KINDS = {"ADALORA": ("init_r", "AEB"), "LORA": ("r", "AB")}
"""For each ``peft_type``: the setting with the initial rank, and the tensors of a module."""
_UNREADABLE = {
    "use_dora": False,
    "use_qalora": False,
    "fan_in_fan_out": False,
    "lora_bias": False,
    "bias": "none",
    "layer_replication": None,
    "alora_invocation_tokens": None,
    "use_bdlora": None,
}
"""LoRA settings that change the computation, with the only value that is supported here."""
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Values of ``init_lora_weights`` that leave the base model's weights unchanged; most others subtract from them."""


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An adapter as stored in a folder: ``scaling * B ((A * E) x)`` for every module.

    In a LoRA module E is a constant: one, or the ratio of the module's own scale to `scaling`.
    """

    modules: dict[str, Triplets]
    """Triplets by the module's name in the transformers model; pruned modules are included with rank 0."""
    head: dict[str, Tensor]
    """Tensors by the parameter's name in the transformers model."""
    head_modules: tuple[str, ...]
    base_model: str
    init_rank: int
    alpha: float
    config: dict[str, Any]
    """All other settings, by PEFT's names."""

    @property
    def scaling(self) -> float:
        """``alpha / init_rank``."""
        return self.alpha / self.init_rank


def read_adapter(folder: Path) -> AdapterFile:
    """Read an AdaLoRA or LoRA adapter.

    Raises:
        CheckpointError: if it is neither, uses unsupported settings, or a file is missing or damaged.
    """
    config, tensors = _read_files(folder)
    kind = str(config.get("peft_type"))
    if kind not in _KINDS:
        raise CheckpointError(f"{folder}: a {kind} adapter, expected {' or '.join(_KINDS)}")
    rank_key, letters = _KINDS[kind]
    unreadable = [name for name, value in _UNREADABLE.items() if (config.get(name) or value) != value]
    if unreadable:
        found = ", ".join(f"{name}={config[name]}" for name in unreadable)
        raise CheckpointError(f"{folder}: an adapter with {found}, which leantune does not read")
    start = config.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise CheckpointError(
            f"{folder}: an adapter with init_lora_weights={start}, which leantune does not read: most such starts "
            "change the weights of the base model, and PEFT converts them to a plain LoRA when it saves them "
            "(path_initial_model_for_weight_conversion)"
        )
    for name in (rank_key, "lora_alpha"):
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise CheckpointError(f"{folder}/{CONFIG}: {name} is {value}, expected a number above 0")
    parts: dict[str, dict[str, Tensor]] = {}
    head = {}
    for key, tensor in tensors.items():
        match = _ADAPTER_KEY.fullmatch(key)
        if match:
            parts.setdefault(match[1], {})[match[2]] = tensor
        else:
            head[key.removeprefix(PREFIX)] = tensor
    incomplete = [name for name, part in parts.items() if set(part) != set(letters)]
    if incomplete or not parts:
        names = ", ".join(f"lora_{letter}" for letter in letters)
        raise CheckpointError(
            f"{folder}: one of {names} is missing for {', '.join(incomplete) or 'all modules'}"
        )
    for name, part in parts.items():
        _check_shapes(folder, name, part)
    if "E" not in letters:
        try:
            _add_constant_e(parts, config)
        except (re.error, TypeError, AttributeError, ValueError, ZeroDivisionError) as error:
            raise CheckpointError(f"{folder}/{CONFIG}: alpha_pattern cannot be read: {error}") from error
    return AdapterFile(
        modules={
            name: Triplets(**{letter: tensor.float() for letter, tensor in part.items()})
            for name, part in parts.items()
        },
        head=head,
        head_modules=tuple(config.get("modules_to_save") or ()),
        base_model=config.get("base_model_name_or_path") or "",
        init_rank=config[rank_key],
        alpha=config["lora_alpha"],
        config=config,
    )


def _check_shapes(folder: Path, name: str, part: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not the factors of one update.

    Raises:
        CheckpointError: naming the first such tensor and its shape.
    """
    ranks = {}
    for letter, tensor in part.items():
        if tensor.dim() != 2 or not tensor.is_floating_point():
            found = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise CheckpointError(
                f"{folder}: lora_{letter} of {name} is {found}, expected a matrix of floats"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{folder}: lora_{letter} of {name} is not finite: the adapter is damaged")
        ranks[letter] = tensor.shape[1 if letter == "B" else 0]
    if len(set(ranks.values())) > 1 or ("E" in part and part["E"].shape[1] != 1):
        shapes = ", ".join(f"lora_{letter} {tuple(tensor.shape)}" for letter, tensor in part.items())
        raise CheckpointError(f"{folder}: {name} has {shapes}, expected one rank")


def _read_files(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        if not isinstance(config, dict):
            raise CheckpointError(f"{folder}/{CONFIG}: {type(config).__name__}, expected an object")
        return config, safetensors.torch.load_file(folder / WEIGHTS)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(
            f"{folder}: no {Path(str(error.filename)).name}; expected an adapter folder"
        ) from error
    except (ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: damaged: {error}") from error


def _add_constant_e(parts: dict[str, dict[str, Tensor]], config: Mapping[str, Any]) -> None:
    """Give every LoRA module the E that turns the common scale ``lora_alpha / r`` into its own."""
    common = config["lora_alpha"] / config["r"]
    for name, part in parts.items():
        rank = len(part["A"])
        alpha = _value_for(name, config.get("alpha_pattern") or {}, config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        part["E"] = torch.full((rank, 1), scale / common)


def _value_for(name: str, pattern: Mapping[str, float], default: float) -> float:
    """The value of the first key of a PEFT pattern that matches the end of ``name``; keys are regular expressions."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", name)), default)


@torch.no_grad()
def merge_into(weights: Mapping[str, Tensor], adapter: AdapterFile) -> None:
    """Add the update to the fp32 weights of a classifier, by name, and copy its head.

    Raises:
        CheckpointError: if the model lacks a module or parameter of the adapter, a shape differs, or a merged weight is
            not finite; the message names it.
    """
    for name, triplets in adapter.modules.items():
        weight = _weight_called(f"{name}.weight", weights)
        delta = triplets.product() * adapter.scaling
        if delta.shape != weight.shape:
            raise CheckpointError(
                f"{name}: the adapter has shape {tuple(delta.shape)}, the model {tuple(weight.shape)}: "
                "another base model"
            )
        weight.add_(delta)
        if not torch.isfinite(weight).all():
            raise CheckpointError(f"{name}: the merged weight is not finite; the adapter is damaged")
    copy_head(weights, adapter)


@torch.no_grad()
def copy_head(weights: Mapping[str, Tensor], adapter: AdapterFile) -> None:
    """Copy the head of ``adapter`` into the weights of a classifier, by name.

    Raises:
        CheckpointError: naming a parameter that the model lacks or has in another shape.
    """
    for name, tensor in adapter.head.items():
        parameter = _weight_called(name, weights)
        if parameter.shape != tensor.shape:
            raise CheckpointError(
                f"{name}: the adapter has shape {tuple(tensor.shape)}, the model {tuple(parameter.shape)}"
            )
        parameter.copy_(tensor)


def _weight_called(name: str, weights: Mapping[str, Tensor]) -> Tensor:
    if name not in weights:
        raise CheckpointError(f"{name}: the adapter has this weight, the base model does not")
    return weights[name]
