"""Find out when adaptive rank pays: ``python -m benchmarks.quality``.

Every run is a fresh process and leaves one row in ``benchmarks/results/quality/runs.jsonl.gz``; runs whose row is
there are not repeated, so the study can be stopped and continued at any moment. Afterwards the table and
the plot are written again. Data sets whose source is not at hand are named and left out.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence

from benchmarks.harness import RESULTS, ROOT, Benchmark, words
from benchmarks.quality import report
from benchmarks.quality.data import SOURCES, DataSet, data_set, missing_source
from benchmarks.quality.jobs import run_job
from benchmarks.quality.methods import BUDGETS, METHODS, Method
from benchmarks.quality.runs import Runs
from benchmarks.quality.study import PUBLISHED, SEEDS, Study, work
from leantune.assets.download import ASSET_PREFIX, fetch

BENCHMARK = Benchmark("quality", __doc__)
QUALITY = RESULTS / "quality"


def main() -> None:
    options = parse_options()
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"{(time.perf_counter() - started) / 60:5.1f} min  {text}", flush=True)

    def may_start() -> bool:
        return not options.table and time.perf_counter() - started < 60 * options.max_minutes

    study = Study(
        sets=available(options.data),
        methods=chosen(options.only),
        budgets=options.budgets,
        num_seeds=options.seeds,
        runs=Runs(options.results),
    )
    fetch(data.source.encoder.model.removeprefix(ASSET_PREFIX) for data in study.sets)
    environment = environment_of_runs()
    if options.workers > 1:  # processes with several threads each get in each other's way
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // options.workers))
    scratch = ROOT / "runs" / f"quality-{os.getpid()}"
    work(study, lambda job: run_job(job, scratch / job.key, environment), may_start, say, options.workers)
    text = report.markdown_of(study)
    (options.results / "README.md").write_text(text, "utf-8")
    if curves := report.budget_curves(study):
        report.draw(curves, options.results / report.PLOT)
    print(text, f"{len(study.pending())} runs pending", sep="\n")


def parse_options() -> argparse.Namespace:
    parser = BENCHMARK.parser()
    parser.set_defaults(results=QUALITY)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        metavar="WORDS",
        help="methods, by parts of their names, or =whole names",
    )
    parser.add_argument("--data", type=words, default=list(SOURCES), help="data sets, separated by commas")
    parser.add_argument("--seeds", type=int, default=5, help=f"at most {len(SEEDS)}; pipelines of PEFT: 3")
    parser.add_argument(
        "--budgets",
        type=words,
        default=[PUBLISHED],
        help=f"separated by commas: {', '.join(BUDGETS)}; for the plot",
    )
    parser.add_argument("--max-minutes", type=float, default=float("inf"), help="start no run after this")
    parser.add_argument(
        "--workers", type=int, default=1, help="runs at a time, each with its share of the cores"
    )
    parser.add_argument("--table", action="store_true", help="train nothing, write table and plot")
    options = parser.parse_args()
    unknown = (set(options.data) - set(SOURCES)) | (set(options.budgets) - set(BUDGETS))
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if not 1 <= options.seeds <= len(SEEDS):
        parser.error(f"--seeds must be 1 to {len(SEEDS)}")
    return options


def chosen(parts: Sequence[str]) -> list[Method]:
    """The methods that ``--only`` means: each of ``parts`` is a part of their names, or after ``=`` the whole."""

    def is_meant(name: str, part: str) -> bool:
        return name == part[1:] if part.startswith("=") else part in name

    return [method for method in METHODS if any(is_meant(method.name, part) for part in parts)]


def environment_of_runs() -> dict[str, str]:
    """For the processes that train: they find this package and ask no hub."""
    return os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}


def available(names: list[str]) -> list[DataSet]:
    """The data sets whose source is at hand."""
    missing = {name: file for name in names if (file := missing_source(name))}
    for name, file in missing.items():
        print(f"{name}: left out, {file} is not there")
    return [data_set(name) for name in names if name not in missing]


if __name__ == "__main__":
    main()
