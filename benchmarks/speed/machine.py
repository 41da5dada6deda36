"""What this machine can do: its matrix-product rates. Run as a script, it prints them as JSON."""

from __future__ import annotations

import json
import time
from importlib import metadata
from importlib.util import find_spec

import torch

from leantune.system.hardware import describe_hardware, describe_versions, pick_device, pick_precision

SHAPES = {"cpu": ((4096, 768, 3072), (2048, 2048, 2048)), "cuda": ((8192, 8192, 8192), (16384, 4096, 4096))}
"""(rows, inner, columns); the best of them counts."""
SECONDS = 0.5
"""Measured for each shape."""
EXTRAS = ("openvino", "nncf")
"""Packages that only some pipelines need."""


def main() -> None:
    device = pick_device()
    rates = {
        name: max(matrix_flops(shape, dtype, device) for shape in SHAPES[device.type])
        for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
    }
    machine = {
        "hardware": describe_hardware(device),
        "versions": describe_versions() | {n: metadata.version(n) for n in EXTRAS if find_spec(n)},
        "precision": pick_precision("auto", device),
        "matrix_flops": rates,
    }
    print(json.dumps(machine))


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


if __name__ == "__main__":
    main()
