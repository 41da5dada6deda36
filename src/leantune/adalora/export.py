"""Write adapters in PEFT's formats: AdaLoRA as trained, or exactly the same update as plain LoRA.

PEFT's own classes write the config, so that any version of PEFT that reads it can load the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from leantune.adalora.adapter_file import PREFIX, WEIGHTS, AdapterFile

_ADALORA_SETTINGS = (
    "target_r",
    "beta1",
    "beta2",
    "orth_reg_weight",
    "tinit",
    "tfinal",
    "deltaT",
    "total_step",
)


def write_adalora(folder: Path, adapter: AdapterFile) -> None:
    """Write PEFT's AdaLoRA format.

    Args:
        folder: an existing folder.
        adapter: an adapter with AdaLoRA's settings in its ``config``.
    """
    from peft import AdaLoraConfig

    config = AdaLoraConfig(
        **_common_settings(adapter),
        init_r=adapter.init_rank,
        rank_pattern={
            f"{name}.lora_E": [i < triplets.rank for i in range(adapter.init_rank)]
            for name, triplets in adapter.modules.items()
        },
        **{name: adapter.config[name] for name in _ADALORA_SETTINGS},
    )
    config.save_pretrained(str(folder))
    tensors = {}
    for name, triplets in adapter.modules.items():
        tensors[f"{name}.lora_A"] = triplets.A
        tensors[f"{name}.lora_E"] = triplets.E
        tensors[f"{name}.lora_B"] = triplets.B
    _write_tensors(folder, tensors | adapter.head)


def write_lora(folder: Path, adapter: AdapterFile) -> None:
    """Write the same update as plain LoRA, exactly: ``A * E`` is the LoRA A, B is the LoRA B.

    No decomposition is needed. ``rank_pattern`` and ``alpha_pattern`` give every module its rank and the common scale
    ``alpha / init_rank``; modules of rank 0 are left out.
    """
    from peft import LoraConfig

    live = {name: triplets for name, triplets in adapter.modules.items() if triplets.rank}
    config = LoraConfig(
        **_common_settings(adapter) | {"target_modules": list(live)},
        r=adapter.init_rank,
        rank_pattern={name: t.rank for name, t in live.items() if t.rank != adapter.init_rank},
        alpha_pattern={
            name: adapter.scaling * t.rank for name, t in live.items() if t.rank != adapter.init_rank
        },
    )
    config.save_pretrained(str(folder))
    tensors = {}
    for name, triplets in live.items():
        tensors[f"{name}.lora_A.weight"] = triplets.A * triplets.E
        tensors[f"{name}.lora_B.weight"] = triplets.B
    _write_tensors(folder, tensors | adapter.head)


WRITERS: Mapping[str, Callable[[Path, AdapterFile], None]] = {"adalora": write_adalora, "lora": write_lora}
"""Writers of PEFT's format for each value of the recipe key ``method``."""


def _common_settings(adapter: AdapterFile) -> dict[str, Any]:
    from peft import TaskType

    return {
        "task_type": TaskType.SEQ_CLS,
        "base_model_name_or_path": adapter.base_model,
        "inference_mode": True,
        "target_modules": list(adapter.modules),
        "modules_to_save": list(adapter.head_modules),
        "lora_alpha": _whole_if_possible(adapter.alpha),
        "lora_dropout": adapter.config.get("lora_dropout", 0.0),
    }


def _write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    prefixed = {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(prefixed, folder / WEIGHTS, metadata={"format": "pt"})


def _whole_if_possible(value: float) -> float | int:
    return int(value) if value == int(value) else value
