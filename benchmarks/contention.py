"""What is left beside other work: ``python -m benchmarks.contention [--rounds 3]``.

Training and prediction with MiniLM-L6, by leantune and by the best setting of transformers' ``Trainer`` with PEFT, on a
quiet machine and beside one and two processes that keep a core busy each. They take turns, each in a fresh process.
Prints a table of medians and writes JSON and Markdown into ``benchmarks/results/``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from statistics import median

from benchmarks.harness import Benchmark, Result, measured_by, page, table, turns
from benchmarks.speed.pipelines import (
    FEW_SHAPES,
    LEANTUNE,
    ROUNDED,
    Pipeline,
    leantune_prediction,
    leantune_training,
    peer_prediction,
    peer_training,
)
from benchmarks.speed.setting import Setting, setting

BENCHMARK = Benchmark("contention", __doc__)
BUSY = (0, 1, 2)
PIPELINES: Mapping[str, tuple[Pipeline, ...]] = {
    "training": (peer_training(ROUNDED, "--group-by-length", *FEW_SHAPES), leantune_training()),
    "prediction": (peer_prediction(ROUNDED, "best", *FEW_SHAPES), leantune_prediction()),
}
"""By task; prediction takes what training with leantune made."""
LEAST = {1: 0.5, 2: 1 / 3}
"""What leantune is to keep of its rate on a quiet machine, by the number of busy processes."""

Rates = dict[str, dict[str, dict[str, list[float]]]]
"""Texts a second: by task, pipeline and number of busy processes."""


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--rounds", type=int, default=3, help="repeats of each, alternating")
    options = parser.parse_args()
    with setting("MiniLM") as found:
        rates = measure(found, options.rounds)
    result = {**BENCHMARK.origin(), "texts_per_s": rates}
    BENCHMARK.publish(options.results, result, markdown_of(result))


def measure(found: Setting, rounds: int) -> Rates:
    """Each pipeline beside each number of busy processes, in turns."""
    rates: Rates = {}
    for task, pipelines in PIPELINES.items():
        comparison = found.comparison(found.models[0], task)
        for number, (busy, pipeline) in turns(tuple(product(BUSY, pipelines)), rounds):
            found.place.say(f"round {number + 1}, {task} beside {busy}: {pipeline.name}")
            with busy_processes(busy):
                sample = pipeline.sample(comparison.work, found.place)
            by_busy = rates.setdefault(task, {}).setdefault(pipeline.name, {})
            by_busy.setdefault(str(busy), []).append(sample.samples_per_s)
    return rates


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """``count`` processes that compute as long as this lasts."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def markdown_of(result: Result) -> str:
    """The table, and whether leantune keeps what it is to keep."""
    lines, problems = [], []
    for task, by_pipeline in result["texts_per_s"].items():
        for pipeline, by_busy in by_pipeline.items():
            quiet, *others = (median(by_busy[str(busy)]) for busy in BUSY)
            shares = {busy: rate / quiet for busy, rate in zip(BUSY[1:], others, strict=True)}
            beside = (f"{rate:.1f} ({rate / quiet:.0%})" for rate in others)
            lines.append([task, pipeline, f"{quiet:.1f}", *beside])
            problems += [
                f"- {task} keeps {shares[busy]:.0%} beside {busy}, and should keep {least:.0%}"
                for busy, least in LEAST.items()
                if pipeline == LEANTUNE and shares[busy] < least
            ]
    return page(
        f"Beside other work ({result['date']})",
        f"{measured_by(result)}. MiniLM-L6, texts a second, medians, and the share of those on a quiet machine.",
        table(["task", "pipeline", "quiet", "beside one busy process", "beside two"], lines),
        "\n".join(problems),
    )


if __name__ == "__main__":
    main()
