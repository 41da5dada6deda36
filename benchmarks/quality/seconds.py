"""Seconds of training with each method: ``python -m benchmarks.quality.seconds``.

The runs of the study share the machine. Here the first seed of every method is trained again on AG News at its
learning rate of the study, one run at a time and with all threads, so that the seconds can be compared. The linear
probe and the start along the gradient count, measurements do not. Writes ``seconds.json`` beside the runs, which
the table of the study shows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.quality.__main__ import QUALITY, ROOT, chosen, environment_of_runs
from benchmarks.quality.data import data_set
from benchmarks.quality.jobs import run_job
from benchmarks.quality.methods import MAIN
from benchmarks.quality.report import SECONDS
from benchmarks.quality.runs import Runs
from benchmarks.quality.study import PUBLISHED, Study
from benchmarks.results_folder import origin_of
from leantune.assets.download import fetch

DATA = "agnews"


def main() -> int:
    options = parse_options()
    console = Console()
    fetch(["minilm"])
    results = Path(options.results)
    methods = chosen(options.only) if options.only else MAIN
    study = Study(
        sets=[data_set(DATA)], methods=methods, budgets=[PUBLISHED], num_seeds=1, runs=Runs(results)
    )
    jobs = {method.name: job for method in methods for job in study.runs_of(study.sets[0], method, PUBLISHED)}
    environment = environment_of_runs()
    runs: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(options.rounds):
        for name, job in jobs.items():
            result = run_job(job, ROOT / "runs" / f"seconds-{os.getpid()}", environment)
            runs[name].append(result.get("start_s", 0) + result["train_s"])  # the pipelines have no start
            console.print(f"{runs[name][-1]:6.0f} s  {job}", highlight=False, soft_wrap=True)
            write(results / SECONDS, runs)
    return 0


def write(path: Path, runs: dict[str, list[float]]) -> None:
    """After every run, so that those there are count when it is stopped."""
    found: dict[str, Any] = {
        **origin_of("benchmarks.quality.seconds"),
        "data": DATA,
        "runs": runs,
        "seconds": {name: median(each) for name, each in runs.items() if each},
    }
    path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.seconds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORDS",
        help="methods, as of the study; default: those of README's table",
    )
    parser.add_argument("--rounds", type=int, default=1, help="runs of each, alternating; the median counts")
    parser.add_argument("--results", default=str(QUALITY), help="folder of the runs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
