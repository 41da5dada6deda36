"""How long threads spin for each other before they sleep. Imports nothing, as OpenMP reads it when torch is loaded."""

from __future__ import annotations

import os
from pathlib import Path

SPINS = "1000"
"""Rounds of a waiting thread: some 0.1 ms, longer than most waits of a kernel."""


def spin_briefly() -> None:
    """Let threads of this process sleep soon where they wait for another, unless the environment says how long.

    GCC's OpenMP spins for 300,000 rounds, some 20 ms. On a machine of its own a process wins little by that. Beside
    other work the thread that all wait for has lost its core, and those that spin keep it from getting another.
    """
    if not os.environ.get("OMP_WAIT_POLICY"):
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def share_cores(num_processes: int) -> None:
    """Let this process compute with its share of the cores, unless the environment says with how many threads."""
    if num_processes > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // num_processes)))


def has_int8_products(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bytes, as Linux says: then a step of training is few long calls.

    Torch's products in bf16 are many short ones, between which threads had better spin: in bf16 MiniLM trains with 253
    texts a second instead of 194 on a machine of its own (benchmarks/notebook/2026-11-30-one-encoder.md).
    """
    flags = cpuinfo.read_text("utf-8", "replace").split() if cpuinfo.is_file() else []
    return not {"avx512_vnni", "avx_vnni", "amx_int8"}.isdisjoint(flags)
