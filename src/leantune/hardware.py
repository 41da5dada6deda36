"""What the machine is and which number type suits it."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from leantune.errors import UsageError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"
"""Environment variable that keeps oneDNN from the newest instructions, and so decides speed and rounding."""


def pick_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_precision(choice: str, device: torch.device) -> str:
    """``bf16`` where the machine computes it natively, ``fp16`` on GPUs without it, else ``fp32``.

    Raises:
        UsageError: for fp16 on a CPU, which has no fast products for it, and a choice that is none.
    """
    if choice not in ("auto", *DTYPES):
        raise UsageError(f"precision must be one of auto, {', '.join(DTYPES)}. Got {choice!r} instead")
    if choice == "fp16" and device.type == "cpu":
        raise UsageError("precision=fp16 needs a GPU; use precision=bf16 or precision=fp32 on a CPU")
    if choice != "auto":
        return choice
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    """Whether bf16 products are native: AVX512-BF16 or AMX, and oneDNN is not told to go without."""
    limit = os.environ.get(ISA_LIMIT, "ALL").upper()
    if limit not in ("ALL", "DEFAULT") and "BF16" not in limit and "AMX" not in limit:
        return False
    has = torch.cpu
    return bool(has._is_avx512_bf16_supported() or has._is_amx_tile_supported())


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """The ``hardware`` entry of ``record.json``."""
    return {
        "device": device.type,
        "cpu": _cpu_name(),
        "cores": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "onednn_max_cpu_isa": os.environ.get(ISA_LIMIT),
    }


def describe_versions() -> dict[str, str]:
    """The ``versions`` entry of ``record.json``."""
    names = (
        "torch",
        "transformers",
        "peft",
        "tokenizers",
        "datasets",
        "pyarrow",
        "numpy",
        "scikit-learn",
        "safetensors",
    )
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
