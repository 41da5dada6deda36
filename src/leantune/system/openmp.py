"""Sets how long OpenMP threads spin before they sleep.

The module imports no torch, because OpenMP reads its settings when torch is loaded.
"""

from __future__ import annotations

import os
from pathlib import Path

SPINS = "1000"
"""Number of rounds that a waiting thread spins: about 0.1 ms, longer than most waits in a kernel."""


def spin_briefly() -> None:
    """Make waiting threads sleep soon, unless the environment sets how long they spin.

    GCC's OpenMP spins for 300,000 rounds, about 20 ms. This gains little on an idle machine. On a busy machine, the
    thread that all others wait for may have lost its core, and spinning threads keep it from getting another.
    """
    if not os.environ.get("OMP_WAIT_POLICY"):
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def share_cores(num_processes: int) -> None:
    """Give this process its share of the cores, unless the environment sets the number of threads."""
    if num_processes > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // num_processes)))


def has_int8_products(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has int8 products according to Linux; a training step then makes few long calls.

    Torch's bf16 products are many short calls, between which threads should spin: in bf16, MiniLM then trains on 253
    texts per second instead of 194 on an idle machine (benchmarks/notebook/2026-11-30-one-encoder.md).
    """
    flags = cpuinfo.read_text("utf-8", "replace").split() if cpuinfo.is_file() else []
    return not {"avx512_vnni", "avx_vnni", "amx_int8"}.isdisjoint(flags)
