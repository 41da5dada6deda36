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
from leantune.system.memory import keep_freed_memory, use_huge_pages

SETTLING_STEPS = 3 * WARM_STEPS
"""Kernels are compiled for new shapes meanwhile."""
NO_PENALTY = {"orth_reg_weight": "0"}
"""As by default; the benchmark of the overhead, whose run this is, has it on."""


def main() -> None:
    model, rows, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    settings = NO_PENALTY | parse_overrides(sys.argv[4:])
    with tempfile.TemporaryDirectory() as folder:
        run = contestant(model, rows, Path(folder) / "run", "adalora", steps, **settings)
        timed = run.take(steps)[SETTLING_STEPS:]
        result = {
            "step_s": median(step.seconds for step in timed),
            "tokens": median(step.num_tokens for step in timed),
            "operators_s": seconds_by_operator(run, steps),
        }
    print(json.dumps(result))


def seconds_by_operator(run: Contestant, steps: int) -> dict[str, Any]:
    """Seconds a step that each operator takes by itself, without those it calls; the dearest first."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run.take(steps)
    seconds = {event.key: event.self_cpu_time_total / 1e6 / steps for event in found.key_averages()}
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    torch.set_num_interop_threads(1)
    keep_freed_memory()  # as the command line does
    use_huge_pages()
    main()
