"""What is left beside other work: ``python -m benchmarks.contention [--rounds 3]``.

Training and prediction with MiniLM-L6, by leantune and by the best setting of transformers' ``Trainer`` with PEFT, on a
quiet machine and beside one and two processes that keep a core busy each. They take turns, each in a fresh process.
Prints a table of medians and writes JSON and Markdown into ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result
from benchmarks.speed import inputs
from benchmarks.speed.__main__ import prepare, workplace
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
from leantune.system.hardware import pick_device, pick_precision

BUSY = (0, 1, 2)
PIPELINES: Mapping[str, tuple[Pipeline, ...]] = {
    "training": (peer_training(ROUNDED, "--group-by-length", *FEW_SHAPES), leantune_training()),
    "prediction": (peer_prediction(ROUNDED, "best", *FEW_SHAPES), leantune_prediction()),
}
"""By task; prediction takes what training with leantune made."""
LEAST = {1: 0.5, 2: 1 / 3}
"""Of the rate on a quiet machine, by the number of busy processes: what leantune is to keep."""

Rates = dict[str, dict[str, dict[str, list[float]]]]
"""Texts a second: by task, pipeline and number of busy processes."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.contention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="repeats of each, alternating")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(Path(folder), console, rounds=options.rounds)
    result = {**origin_of("benchmarks.contention"), "texts_per_s": rates}
    text = markdown_of(result)
    console.print(text, highlight=False, soft_wrap=True)
    stem = stem_of("contention", result["hardware"])
    for path in write_result(RESULTS, stem, result, text):
        console.print(path, highlight=False, soft_wrap=True)
    return 0


def measure(folder: Path, console: Console, *, rounds: int) -> Rates:
    """Each pipeline beside each number of busy processes, in turns."""
    place = workplace(folder, console)
    precision = pick_precision("auto", pick_device())
    (model, *_), _ = inputs.available_models(place)
    _, rows = inputs.read_rows(place)
    rates: Rates = {}
    for task, pipelines in PIPELINES.items():
        work = prepare(model, task, rows, precision, folder, is_long=False).work
        for number in range(rounds):
            for busy in BUSY:
                for pipeline in pipelines:
                    place.say(f"round {number + 1}, {task} beside {busy}: {pipeline.name}")
                    with busy_processes(busy):
                        outcome = place.run(pipeline.command(work, folder))
                    rate = pipeline.read(work, folder, outcome).samples_per_s
                    by_busy = rates.setdefault(task, {}).setdefault(pipeline.name, {})
                    by_busy.setdefault(str(busy), []).append(rate)
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


def markdown_of(result: Mapping[str, Any]) -> str:
    """The table, and whether leantune keeps what it is to keep."""
    lines = [
        f"# Beside other work ({result['date']})",
        "",
        f"`{result['command']}`, commit {result['commit']}, {machine_name(result['hardware'])}, "
        f"{result['hardware']['cores']} threads, MiniLM-L6. Texts a second, medians, and the share of those on a quiet "
        "machine.",
        "",
        "| task | pipeline | quiet | beside one busy process | beside two |",
        "|---|---|---|---|---|",
    ]
    problems = []
    for task, by_pipeline in result["texts_per_s"].items():
        for pipeline, by_busy in by_pipeline.items():
            quiet, *others = (median(by_busy[str(busy)]) for busy in BUSY)
            shares = dict(zip(BUSY[1:], (rate / quiet for rate in others), strict=True))
            cells = [f"{rate:.1f} ({shares[busy]:.0%})" for busy, rate in zip(BUSY[1:], others, strict=True)]
            lines.append(f"| {task} | {pipeline} | {quiet:.1f} | {' | '.join(cells)} |")
            if pipeline == LEANTUNE:
                problems += [
                    f"- {task} keeps {shares[busy]:.0%} beside {busy}, and should keep {least:.0%}"
                    for busy, least in LEAST.items()
                    if shares[busy] < least
                ]
    return "\n".join([*lines, *([""] if problems else []), *problems, ""])


if __name__ == "__main__":
    sys.exit(main())
