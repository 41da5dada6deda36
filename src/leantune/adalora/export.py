"""Adapters on disk in PEFT's formats: AdaLoRA as it was trained, and the exact plain LoRA of it.

An adapter folder holds ``adapter_config.json`` and ``adapter_model.safetensors``; PEFT's own classes
write the config, so that PEFT of any version it reads can load it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from leantune.adalora.layer import AdaLoraLinear
from leantune.adalora.schedule import RankSchedule
from leantune.errors import CheckpointError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
_TRIPLET_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AEB])(?:\.default)?")


@dataclass(frozen=True, slots=True)
class Triplets:
    """One module's update: ``scaling * B ((A * E) x)``."""

    A: Tensor
    """``(R, in)`` fp32."""
    E: Tensor
    """``(R, 1)`` fp32."""
    B: Tensor
    """``(out, R)`` fp32."""

    @property
    def rank(self) -> int:
        """R; 0 where everything was pruned."""
        return self.E.shape[0]


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An AdaLoRA adapter as it stands in a folder."""

    modules: dict[str, Triplets]
    """By the module's name in the transformers model; pruned modules are there with rank 0."""
    head: dict[str, Tensor]
    """By the parameter's name in the transformers model."""
    head_modules: tuple[str, ...]
    base_model: str
    init_rank: int
    alpha: float
    config: dict[str, Any]

    @property
    def scaling(self) -> float:
        """``alpha / init_rank``."""
        return self.alpha / self.init_rank


def write_adalora(
    folder: Path,
    *,
    layers: Mapping[str, AdaLoraLinear],
    target_names: Iterable[str],
    head: Mapping[str, Tensor],
    head_modules: Iterable[str],
    base_model: str,
    schedule: RankSchedule,
    settings: Mapping[str, Any],
) -> None:
    """Write PEFT's AdaLoRA format.

    Args:
        folder: an existing folder.
        layers: what is left of the adapted layers; a target that is not there has rank 0.
        target_names: all layers that had an adapter.
        head: parameters of the head by name.
        head_modules: names of its modules.
        base_model: what ``adapter_config.json`` names as the base.
        schedule: for the fields of the same names in PEFT's config.
        settings: ``init_rank``, ``target_rank``, ``alpha``, ``lora_dropout``, ``beta1``, ``beta2``,
            ``orth_reg_weight`` as trained with, and ``shapes``: ``(in, out)`` by target.
    """
    from peft import AdaLoraConfig, TaskType

    names = list(target_names)
    init_rank: int = settings["init_rank"]
    ranks = {name: layers[name].rank if name in layers else 0 for name in names}
    config = AdaLoraConfig(
        task_type=TaskType.SEQ_CLS,
        base_model_name_or_path=base_model,
        inference_mode=True,
        target_modules=names,
        modules_to_save=list(head_modules),
        init_r=init_rank,
        target_r=settings["target_rank"],
        lora_alpha=_whole_if_possible(settings["alpha"]),
        lora_dropout=settings["lora_dropout"],
        beta1=settings["beta1"],
        beta2=settings["beta2"],
        orth_reg_weight=settings["orth_reg_weight"],
        tinit=schedule.warmup_steps,
        tfinal=schedule.final_steps,
        deltaT=schedule.allocate_every,
        total_step=schedule.total_steps,
        rank_pattern={f"{n}.lora_E": [i < ranks[n] for i in range(init_rank)] for n in names},
    )
    config.save_pretrained(str(folder))
    tensors = {f"{_PREFIX}{name}": tensor.detach().cpu().contiguous() for name, tensor in head.items()}
    for name in names:
        shape_in, shape_out = settings["shapes"][name]
        layer = layers.get(name)
        parts = {
            "lora_A": layer.lora_A if layer else torch.empty(0, shape_in),
            "lora_E": layer.lora_E if layer else torch.empty(0, 1),
            "lora_B": layer.lora_B if layer else torch.empty(shape_out, 0),
        }
        for part, tensor in parts.items():
            tensors[f"{_PREFIX}{name}.{part}"] = tensor.detach().cpu().contiguous()
    safetensors.torch.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def read_adalora(folder: Path) -> AdapterFile:
    """Read an AdaLoRA adapter, ours or PEFT's.

    Raises:
        CheckpointError: if it is no AdaLoRA adapter, or a file is missing or damaged.
    """
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder}: no {Path(str(error.filename)).name}; expected an adapter folder"
        ) from error
    except (ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: damaged: {error}") from error
    if config.get("peft_type") != "ADALORA":
        raise CheckpointError(f"{folder}: a {config.get('peft_type')} adapter, expected ADALORA")
    parts: dict[str, dict[str, Tensor]] = {}
    head = {}
    for key, tensor in tensors.items():
        match = _TRIPLET_KEY.fullmatch(key)
        if match:
            parts.setdefault(match[1], {})[match[2]] = tensor.float()
        else:
            head[key.removeprefix(_PREFIX)] = tensor
    incomplete = [name for name, part in parts.items() if set(part) != {"A", "E", "B"}]
    if incomplete or not parts:
        raise CheckpointError(
            f"{folder}: lora_A, lora_E or lora_B is missing of {', '.join(incomplete) or 'all'}"
        )
    return AdapterFile(
        modules={name: Triplets(**part) for name, part in parts.items()},
        head=head,
        head_modules=tuple(config.get("modules_to_save") or ()),
        base_model=config.get("base_model_name_or_path") or "",
        init_rank=config["init_r"],
        alpha=config["lora_alpha"],
        config=config,
    )


def write_lora(folder: Path, adapter: AdapterFile) -> None:
    """Write the same update as plain LoRA, exactly: ``A * E`` is the LoRA A, B is the LoRA B.

    No decomposition is needed. ``rank_pattern`` and ``alpha_pattern`` give every module its rank and
    the common scale ``alpha / init_rank``; modules of rank 0 are left out.
    """
    from peft import LoraConfig, TaskType

    live = {name: triplets for name, triplets in adapter.modules.items() if triplets.rank}
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        base_model_name_or_path=adapter.base_model,
        inference_mode=True,
        target_modules=list(live),
        modules_to_save=list(adapter.head_modules),
        r=adapter.init_rank,
        lora_alpha=_whole_if_possible(adapter.alpha),
        lora_dropout=adapter.config.get("lora_dropout", 0.0),
        rank_pattern={name: t.rank for name, t in live.items() if t.rank != adapter.init_rank},
        alpha_pattern={
            name: adapter.scaling * t.rank for name, t in live.items() if t.rank != adapter.init_rank
        },
    )
    config.save_pretrained(str(folder))
    tensors = {f"{_PREFIX}{name}": tensor.contiguous() for name, tensor in adapter.head.items()}
    for name, triplets in live.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = (triplets.A * triplets.E).contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = triplets.B.contiguous()
    safetensors.torch.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


@torch.no_grad()
def merge_into(model: Any, adapter: AdapterFile) -> None:
    """Add the update to the fp32 weights of a transformers classifier and put in its head.

    Raises:
        CheckpointError: if the model lacks a module or parameter of the adapter, a shape differs, or
            a merged weight is not finite; the message names it.
    """
    for name, triplets in adapter.modules.items():
        weight = _parameter(model, f"{name}.weight")
        delta = (triplets.B @ (triplets.A * triplets.E)) * adapter.scaling
        if delta.shape != weight.shape:
            raise CheckpointError(
                f"{name}: the adapter has shape {tuple(delta.shape)}, the model {tuple(weight.shape)}: "
                "another base model"
            )
        weight.add_(delta)
        if not torch.isfinite(weight).all():
            raise CheckpointError(f"{name}: the merged weight is not finite; the adapter is damaged")
    for name, tensor in adapter.head.items():
        parameter = _parameter(model, name)
        if parameter.shape != tensor.shape:
            raise CheckpointError(
                f"{name}: the adapter has shape {tuple(tensor.shape)}, the model {tuple(parameter.shape)}"
            )
        parameter.copy_(tensor)


def _parameter(model: Any, name: str) -> Tensor:
    try:
        parameter: Tensor = model.get_parameter(name)
    except AttributeError as error:
        raise CheckpointError(f"{name}: the adapter has it, the base model has not") from error
    return parameter


def _whole_if_possible(value: float) -> float | int:
    return int(value) if value == int(value) else value
