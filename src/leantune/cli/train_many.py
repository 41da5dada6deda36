"""``leantune train-many``: the classifiers of a table, one line for each as it ends, and a table of all."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leantune.cli.values import count, path, positive
from leantune.config import parse_overrides
from leantune.errors import LeantuneError

if TYPE_CHECKING:
    from rich.table import Table

    from leantune.cluster.many.results import JobResult


def add_train_many(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.usage = f"{parser.prog} JOBS --output FOLDER [KEY=VALUE ...]"
    parser.add_argument(
        "jobs",
        metavar="JOBS",
        type=path,
        help="a table (csv, tsv, jsonl, xlsx, ...): a row for each classifier; its columns are recipe keys and 'name'",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="recipe keys of every row that does not set them"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", required=True, type=path, help="of jobs.csv, overview.html and the runs"
    )
    machines = parser.add_argument_group("where")
    machines.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="a Ray cluster: auto, HOST:PORT of its head node, or local; default: processes of this machine",
    )
    machines.add_argument(
        "--workers", metavar="N", type=positive, help="jobs at a time; default: what there are cores for"
    )
    machines.add_argument(
        "--cores-per-job", metavar="N", type=positive, default=1, help="cores that each job computes with [1]"
    )
    machines.add_argument(
        "--retries", metavar="N", type=count, default=2, help="how often a job whose process died goes on [2]"
    )
    runs = parser.add_argument_group("earlier runs")
    runs.add_argument(
        "--resume",
        action="store_true",
        help="leave finished runs as they are, go on with interrupted ones, train the others",
    )
    runs.add_argument(
        "--overwrite", action="store_true", help="replace them; with --resume those of another recipe"
    )


def train_many(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        UsageError: for a table, or settings, that cannot be.
        LeantuneError: not every job is finished.
    """
    from leantune.cluster.many.jobs import read_jobs
    from leantune.cluster.many.run import Settings, workers_here
    from leantune.cluster.many.run import train_many as run
    from leantune.system.console import console

    settings = Settings(
        folder=Path(options.output),
        cluster=options.cluster,
        workers=options.workers,
        cores_per_job=options.cores_per_job,
        retries=options.retries,
        resume=options.resume,
        overwrite=options.overwrite,
        debug=options.debug,
    )
    if settings.cluster is None:
        workers_here(settings)
    terminal = console(stderr=True, quiet=options.quiet)
    with terminal.status("checking the table"):
        jobs = read_jobs(options.jobs, parse_overrides(options.overrides), settings.folder)

    def say(result: JobResult, number: int) -> None:
        terminal.print(f"{number} of {len(jobs)}: {_line(result)}", soft_wrap=True)

    results = run(jobs, settings, say)
    console().print(_table(results))
    console().print(f"{settings.folder / 'jobs.csv'}\n{settings.folder / 'overview.html'}", soft_wrap=True)
    statuses = Counter(result.status for result in results)
    if statuses["finished"] < len(results):
        first = next(result for result in results if result.status != "finished")
        raise LeantuneError(
            f"{len(results) - statuses['finished']} of {len(results)} jobs are not finished, the first: {first.name}: "
            f"{first.error}; the same command with --resume tries them again"
        )


def _line(result: JobResult) -> str:
    """How a job ended."""
    if result.status != "finished":
        return f"{result.name}: {result.status}: {result.error}"
    seconds = "" if result.seconds is None else f", {result.seconds:.0f} s"
    return f"{result.name}: {_figures(result) or 'finished'}{seconds}"


def _figures(result: JobResult) -> str:
    validation = (
        f"validation {result.metric.replace('_', ' ')} {_figure(result)}"
        if result.validation is not None
        else ""
    )
    test = "" if result.test_accuracy is None else f"test accuracy {100 * result.test_accuracy:.2f} %"
    return ", ".join(filter(None, (validation, test)))


def _figure(result: JobResult) -> str:
    if result.validation is None:
        return "-"
    return f"{result.validation:.4f}" if result.metric == "log_loss" else f"{100 * result.validation:.2f} %"


def _table(results: Sequence[JobResult]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("name", "status", "validation", "test", "parameters", "seconds"):
        table.add_column(name, justify="left" if name in ("name", "status") else "right", overflow="fold")
    for each in results:
        test = "-" if each.test_accuracy is None else f"{100 * each.test_accuracy:.2f} %"
        parameters = "-" if each.trainable_parameters is None else f"{each.trainable_parameters:,}"
        seconds = "-" if each.seconds is None else f"{each.seconds:.0f}"
        table.add_row(each.name, each.status, _figure(each), test, parameters, seconds)
    return table
