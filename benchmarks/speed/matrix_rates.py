"""The rates at which this machine multiplies matrices. Run as a script, it prints them as JSON."""

from __future__ import annotations

import json
import sys
import time

import torch

from benchmarks.processes import Workplace
from leantune.system.hardware import pick_device

SHAPES = {"cpu": ((4096, 768, 3072), (2048, 2048, 2048)), "cuda": ((8192, 8192, 8192), (16384, 4096, 4096))}
"""(rows, inner, columns); the best of them counts."""
SECONDS = 0.5
"""Measured for each shape."""

Rates = dict[str, float]
"""Operations a second in ``bf16`` and in ``fp32``."""


def matrix_rates(place: Workplace) -> Rates:
    """What a fresh process finds."""
    rates: Rates = json.loads(place.output_of([sys.executable, "-m", "benchmarks.speed.matrix_rates"]))
    return rates


def the_higher(first: Rates, second: Rates) -> Rates:
    """The better of two measurements: a limit must not be what a busy moment allowed."""
    return {name: max(rate, second[name]) for name, rate in first.items()}


def matrix_flops(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of the fastest repeat of one product."""
    rows, inner, columns = shape
    a = torch.randn(rows, inner, device=device, dtype=dtype)
    b = torch.randn(inner, columns, device=device, dtype=dtype)
    fastest = float("inf")
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * rows * inner * columns / fastest


def main() -> None:
    device = pick_device()
    found = {
        name: max(matrix_flops(shape, dtype, device) for shape in SHAPES[device.type])
        for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
