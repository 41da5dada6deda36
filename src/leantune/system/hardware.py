"""What the machine is and which number type suits it."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from leantune.errors import UsageError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

INT8 = "int8"
"""A precision that is bf16, with products in int8 where the kernels of this machine have them."""

ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"
"""Environment variable that keeps oneDNN from the newest instructions, and so decides speed and rounding."""


def pick_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_precision(choice: str, device: torch.device) -> str:
    """The type of the encoder: for ``auto`` ``bf16`` where the machine computes it natively, ``fp16`` on GPUs without
    it, else ``fp32``; for ``int8``, which is of products, ``bf16``.

    Raises:
        UsageError: for fp16 on a CPU, which has no fast products for it, and a choice that is none.
    """
    if choice not in ("auto", INT8, *DTYPES):
        raise UsageError(
            f"precision must be one of auto, {INT8}, {', '.join(DTYPES)}. Got {choice!r} instead"
        )
    if choice == INT8:
        return "bf16"
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


def keep_to_allowed_cpus() -> None:
    """Compute with no more threads than this process may have cores at a time: one that waits for its share of a core
    keeps all others waiting. ``OMP_NUM_THREADS`` overrules that.
    """
    if not os.environ.get("OMP_NUM_THREADS") and (most := allowed_threads()) < torch.get_num_threads():
        torch.set_num_threads(most)


def allowed_threads() -> int:
    """Cores that this process may run on, or the CPU time that its cgroups allow, rounded up, if that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cpu_limit()
    return cores if limit is None else max(1, min(cores, math.ceil(limit)))


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Seconds of CPU time in a second that the cgroups of this process allow, of version 1 and 2: the least of its own
    and of those above it. None without a limit.

    Args:
        root: of the file system, in which ``proc`` and the cgroups are.
    """
    limits = [limit for folder in _cgroups(root) if (limit := _quota_of(folder)) is not None]
    return min(limits, default=None)


def _cgroups(root: Path) -> Iterator[Path]:
    """The folders of the cgroups that may limit this process, outwards from its own."""
    own, mounts = (_lines(root / "proc" / "self" / name) for name in ("cgroup", "mountinfo"))
    paths = {}  # within each hierarchy: that of version 2, or of version 1 for the CPU
    for line in own:
        number, controllers, path = line.split(":", 2)
        if number == "0" or "cpu" in controllers.split(","):
            paths["cgroup2" if number == "0" else "cgroup"] = path
    for line in mounts:
        before, _, behind = line.partition(" - ")
        top, place = before.split(" ")[3:5]
        kind, _, options = behind.split(" ", 2)
        if kind not in paths or (kind == "cgroup" and "cpu" not in options.split(",")):
            continue
        mounted = root / place.lstrip("/")
        # a container sees its own cgroup as the top, and may be told its path outside
        inside = paths[kind].removeprefix(top.rstrip("/")).strip("/") if paths[kind].startswith(top) else ""
        own_folder = mounted / inside
        yield from (folder for folder in (own_folder, *own_folder.parents) if folder.is_relative_to(mounted))


def _quota_of(cgroup: Path) -> float | None:
    """CPU time in a second; None for no limit, and where nothing is said."""
    words = " ".join(_lines(cgroup / "cpu.max")).split() or [
        word for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us") for word in _lines(cgroup / name)
    ]
    if len(words) != 2 or not all(map(str.isdecimal, words)) or int(words[1]) == 0:  # "max", and -1
        return None
    return int(words[0]) / int(words[1])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:  # another system, or none of its files
        return []


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """The ``hardware`` entry of ``record.json``."""
    return {
        "device": device.type,
        "cpu": _cpu_name(),
        "cores": torch.get_num_threads(),
        "cpu_limit": cpu_limit(),
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
