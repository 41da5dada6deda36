"""Where the time of a training step goes, in this process: ``python -m benchmarks.profile.measure MODEL ROWS STEPS
[KEY=VALUE...]``.

Prints JSON: the median seconds of a step without the profiler, its tokens, and with it the seconds of every
operator by itself. Environment variables (``LEANTUNE_NATIVE``) and more keys of the recipe decide what is measured.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.overhead.measure import WARM_STEPS, Contestant, contestant
from leantune.config.load import parse_overrides
from leantune.memory import keep_freed_memory

SETTLING_STEPS = 3 * WARM_STEPS
"""Kernels are compiled for new shapes meanwhile."""


def main() -> None:
    model, rows, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    settings = parse_overrides(sys.argv[4:])
    with tempfile.TemporaryDirectory() as folder:
        run = contestant(model, rows, Path(folder) / "run", "adalora", steps, **settings)
        for _ in range(SETTLING_STEPS):
            run.step()
        timed = [run.step() for _ in range(steps - SETTLING_STEPS)]
        result = {
            "step_s": median(seconds for seconds, _ in timed),
            "tokens": median(tokens for _, tokens in timed),
            "operators_s": seconds_by_operator(run, steps),
        }
    print(json.dumps(result))


def seconds_by_operator(run: Contestant, steps: int) -> dict[str, Any]:
    """Seconds a step that each operator takes by itself, without those it calls; the dearest first."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(steps):
            run.step()
    seconds = {event.key: event.self_cpu_time_total / 1e6 / steps for event in found.key_averages()}
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    torch.set_num_interop_threads(1)
    keep_freed_memory()  # as the command line does
    main()
