"""Seconds of training with each method: ``python -m benchmarks.quality.seconds``.

The runs of the study share the machine. Here the first seed of every method is trained again on AG News at its
learning rate of the study, one run at a time and with all threads, so that the seconds can be compared. The linear
probe and the start along the gradient count, measurements do not. Writes ``seconds.json`` beside the runs, which
the table of the study shows.
"""

from __future__ import annotations

import json
import os
from statistics import median

from benchmarks.harness import ROOT, Benchmark, turns
from benchmarks.quality.__main__ import QUALITY, chosen, environment_of_runs
from benchmarks.quality.data import data_set
from benchmarks.quality.jobs import run_job
from benchmarks.quality.methods import MAIN
from benchmarks.quality.report import SECONDS
from benchmarks.quality.runs import Runs
from benchmarks.quality.study import PUBLISHED, Study
from leantune.assets.download import fetch

BENCHMARK = Benchmark("quality.seconds", __doc__)
DATA = "agnews"


def main() -> None:
    parser = BENCHMARK.parser()
    parser.set_defaults(results=QUALITY)
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORDS",
        help="methods, as of the study; default: those of README's table",
    )
    parser.add_argument("--rounds", type=int, default=1, help="runs of each, alternating; the median counts")
    options = parser.parse_args()
    fetch(["minilm"])
    methods, data = chosen(options.only) if options.only else MAIN, data_set(DATA)
    study = Study(sets=[data], methods=methods, budgets=[PUBLISHED], num_seeds=1, runs=Runs(options.results))
    jobs = {method.name: job for method in methods for job in study.runs_of(data, method, PUBLISHED)}
    environment = environment_of_runs()
    result = {**BENCHMARK.origin(), "data": DATA, "runs": {name: [] for name in jobs}}
    for _, (name, job) in turns(tuple(jobs.items()), options.rounds):
        found = run_job(job, ROOT / "runs" / f"seconds-{os.getpid()}", environment)
        seconds = found.get("start_s", 0) + found["train_s"]  # the pipelines have no start
        print(f"{seconds:6.0f} s  {job}", flush=True)
        result["runs"][name].append(seconds)
        result["seconds"] = {name: median(each) for name, each in result["runs"].items() if each}
        # after every run, so that those there count when it is stopped
        (options.results / SECONDS).write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
