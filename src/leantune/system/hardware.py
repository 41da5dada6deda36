"""Describes the machine and chooses device, precision and threads."""

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
"""The precision bf16 with int8 products where the machine's kernels support them."""

ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"
"""Environment variable that keeps oneDNN from newer instructions, which affects speed and rounding."""

BUSY = 1.25
"""Load per core from which on the machine is called busy, before the run itself adds to it."""

NETWORK_DISKS = (
    "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3",
)  # fmt: skip
"""Types in ``/proc/mounts`` of disks that are reached by a network."""


def pick_device() -> torch.device:
    """Return the first GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_precision(choice: str, device: torch.device) -> str:
    """Return the type of the encoder's numbers.

    ``auto`` is ``bf16`` if the machine computes it natively, ``fp16`` on GPUs without bf16, and ``fp32`` otherwise.
    ``int8`` only concerns products, so its type is ``bf16``.

    Raises:
        UsageError: the choice is unknown, or is fp16 on a CPU, which has no fast products for it.
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
    """Whether bf16 products are native (AVX512-BF16 or AMX) and `ISA_LIMIT` allows them."""
    limit = os.environ.get(ISA_LIMIT, "ALL").upper()
    if limit not in ("ALL", "DEFAULT") and "BF16" not in limit and "AMX" not in limit:
        return False
    has = torch.cpu
    return bool(has._is_avx512_bf16_supported() or has._is_amx_tile_supported())


def why_slow(device: torch.device, precision: str, cache: Path) -> Iterator[str]:
    """Yield what makes this machine slower than it could be, with what would help, one line each.

    Args:
        device: the device that computes.
        precision: type of the encoder's numbers.
        cache: folder of cached tokens.
    """
    if device.type == "cpu" and precision == "fp32":
        if _cpu_has_bf16():
            yield "precision=fp32 on a processor that has bf16 instructions, which are several times as fast"
        else:
            yield (
                "this processor has no bf16 instructions (AVX512-BF16 or AMX), so everything is computed in fp32: "
                "about a sixth of the speed that a processor with AMX has"
            )
    elif device.type == "cpu" and not torch.cpu._is_amx_tile_supported():
        yield "this processor has no AMX: one that has it is about three times as fast"
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load >= BUSY * cores:
        yield f"other processes use this machine: load {load:.1f} on {cores} cores"
    if kind := _network_disk(cache):
        yield f"{cache} is on a network disk ({kind}): set LEANTUNE_CACHE to a folder on a local one"


def _network_disk(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Return the type of the network file system that holds ``folder``; empty if it is a local one."""
    fields = [line.split(" ")[1:3] for line in _lines(mounts)]
    holding = [(place, kind) for place, kind in fields if folder.absolute().is_relative_to(place)]
    _, kind = max(holding, key=lambda each: len(each[0]), default=("", ""))
    return kind if kind in NETWORK_DISKS else ""


def keep_to_allowed_cpus() -> None:
    """Limit the number of threads to the cores that this process may use, unless ``OMP_NUM_THREADS`` is set.

    With more threads, those that wait for a core would delay all others.
    """
    if not os.environ.get("OMP_NUM_THREADS") and (most := allowed_threads()) < torch.get_num_threads():
        torch.set_num_threads(most)


def allowed_threads() -> int:
    """Return the smaller of the cores available to this process and its cgroup CPU limit, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cpu_limit()
    return cores if limit is None else max(1, min(cores, math.ceil(limit)))


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Return the CPU seconds per second that the cgroups (v1 or v2) of this process allow; None without a limit.

    The result is the smallest limit of the process's own cgroup and those above it.

    Args:
        root: the root of the file system with ``proc`` and the cgroups.
    """
    limits = [limit for folder in _cgroups(root) if (limit := _quota_of(folder)) is not None]
    return min(limits, default=None)


def _cgroups(root: Path) -> Iterator[Path]:
    """Yield the folders of the cgroups that may limit this process, from its own outwards."""
    own, mounts = (_lines(root / "proc" / "self" / name) for name in ("cgroup", "mountinfo"))
    paths = {}  # by hierarchy: cgroup v2, or the CPU hierarchy of v1
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
        # A container sees its own cgroup as the top, but its path may be that outside the container.
        inside = paths[kind].removeprefix(top.rstrip("/")).strip("/") if paths[kind].startswith(top) else ""
        own_folder = mounted / inside
        yield from (folder for folder in (own_folder, *own_folder.parents) if folder.is_relative_to(mounted))


def _quota_of(cgroup: Path) -> float | None:
    """Return the CPU seconds per second that a cgroup allows; None if it sets no limit."""
    words = " ".join(_lines(cgroup / "cpu.max")).split() or [
        word for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us") for word in _lines(cgroup / name)
    ]
    if (
        len(words) != 2 or not all(map(str.isdecimal, words)) or int(words[1]) == 0
    ):  # "max" and -1 mean no limit
        return None
    return int(words[0]) / int(words[1])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:  # another operating system, or the file does not exist
        return []


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """Return the ``hardware`` entry of ``record.json``."""
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
    """Return the ``versions`` entry of ``record.json``."""
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
