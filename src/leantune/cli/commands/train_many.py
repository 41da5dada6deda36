"""``leantune train-many``: train the classifiers of a table; a line for each as it ends, and a table of all."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leantune.cli.options import add_fields, progress_console, values_of
from leantune.cli.values import path
from leantune.cluster.many.settings import Settings
from leantune.config import parse_overrides
from leantune.errors import LeantuneError
from leantune.system.openmp import has_int8_products, spin_briefly

if TYPE_CHECKING:
    from rich.table import Table

    from leantune.cluster.many.results import JobResult

HELP = "train the classifiers of a table, many at once"
EXAMPLES = """
    leantune train-many jobs.csv --output runs/customers
    leantune train-many jobs.csv --output runs/customers model=asset:minilm max_trainable_params=100k
    leantune train-many jobs.csv --output runs/customers --resume
    leantune train-many jobs.csv --output /shared/customers --cluster 10.0.0.1:6379 --cores-per-job 2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.usage = f"{parser.prog} JOBS --output FOLDER [KEY=VALUE ...]"
    parser.add_argument(
        "jobs",
        metavar="JOBS",
        type=path,
        help="a table (csv, tsv, jsonl, xlsx, ...) with a row per classifier; its columns are recipe keys and 'name'",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="recipe keys for every row that does not set them"
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        required=True,
        type=path,
        help="folder for jobs.csv, overview.html and the runs",
    )
    add_fields(parser, Settings)


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        UsageError: for an invalid table or setting.
        LeantuneError: if not every job finished.
    """
    if has_int8_products():
        spin_briefly()
    from leantune.cluster.many.jobs import read_jobs
    from leantune.cluster.many.run import train_many, workers_here
    from leantune.system.console import console

    settings = Settings(folder=Path(options.output), debug=options.debug, **values_of(options, Settings))
    if settings.cluster is None:
        workers_here(settings)
    terminal = progress_console(options)
    with terminal.status("checking the table"):
        jobs = read_jobs(options.jobs, parse_overrides(options.overrides), settings.folder)

    def say(result: JobResult, number: int) -> None:
        terminal.print(f"{number} of {len(jobs)}: {_line(result)}", soft_wrap=True)

    results = train_many(jobs, settings, say)
    console().print(_table(results))
    console().print(f"{settings.folder / 'jobs.csv'}\n{settings.folder / 'overview.html'}", soft_wrap=True)
    statuses = Counter(result.status for result in results)
    if statuses["finished"] < len(results):
        first = next(result for result in results if result.status != "finished")
        raise LeantuneError(
            f"{len(results) - statuses['finished']} of {len(results)} jobs did not finish, the first: {first.name}: "
            f"{first.error}; run the same command with --resume to try them again"
        )


def _line(result: JobResult) -> str:
    """How a job ended."""
    if result.status != "finished":
        return f"{result.name}: {result.status}: {result.error}"
    seconds = "" if result.seconds is None else f", {result.seconds:.0f} s"
    return f"{result.name}: {_figures(result) or 'finished'}{seconds}"


def _figures(result: JobResult) -> str:
    from leantune.cli.output import figure_of

    validation = (
        f"validation {result.metric.replace('_', ' ')} {figure_of(result.validation, result.metric)}"
        if result.validation is not None
        else ""
    )
    test = "" if result.test_accuracy is None else f"test accuracy {figure_of(result.test_accuracy)}"
    return ", ".join(filter(None, (validation, test)))


def _table(results: Sequence[JobResult]) -> Table:
    from rich.table import Table

    from leantune.cli.output import figure_of

    table = Table(box=None, pad_edge=False)
    for name in ("name", "status", "validation", "test", "parameters", "seconds"):
        table.add_column(name, justify="left" if name in ("name", "status") else "right", overflow="fold")
    for each in results:
        parameters = "-" if each.trainable_parameters is None else f"{each.trainable_parameters:,}"
        seconds = "-" if each.seconds is None else f"{each.seconds:.0f}"
        figures = figure_of(each.validation, each.metric), figure_of(each.test_accuracy)
        table.add_row(each.name, each.status, *figures, parameters, seconds)
    return table
