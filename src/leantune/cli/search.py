"""``leantune search``: one line for each trial, a table of all, and the recipe of the best."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from leantune.cli.values import path, positive, seconds
from leantune.config import Recipe
from leantune.errors import LeantuneError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from leantune.cluster.search.settings import Tried

MAX_ROWS_SHOWN = 20
"""Trials in the table of the terminal, the best first; ``trials.csv`` has all."""


def add_search(parser: argparse.ArgumentParser, add_recipe_arguments: Callable[[Any], None]) -> None:
    """The arguments of the command, beside those of a recipe."""
    add_recipe_arguments(parser)
    parser.usage = f"{parser.prog} [RECIPE] --output FOLDER --trials N [KEY=VALUE ...] [--KEY VALUE ...]"
    search = parser.add_argument_group("search")
    search.add_argument(
        "--trials",
        metavar="N",
        type=positive,
        required=True,
        help="candidates to train, stopped ones included",
    )
    search.add_argument("--minutes", metavar="M", type=seconds, help="after which no trial begins")
    search.add_argument(
        "--space",
        metavar="FILE",
        type=path,
        help="YAML: key: [value, ...], or key: {low: ..., high: ..., log: true}; default: learning_rate, targets, "
        "init_rank and epochs, as far as the recipe leaves them open",
    )
    search.add_argument("--resume", action="store_true", help="go on with the trials that are in the folder")
    search.add_argument(
        "--train-winner", action="store_true", help="train the best recipe into FOLDER/winner, and test it"
    )
    where = parser.add_argument_group("where")
    where.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="a Ray cluster: auto, HOST:PORT of its head node, or local; default: processes of this machine",
    )
    where.add_argument(
        "--workers",
        metavar="N",
        type=positive,
        help="trials at a time; default: one here, on a cluster what it has cores for",
    )
    where.add_argument(
        "--cores-per-job", metavar="N", type=positive, default=1, help="of a trial on a cluster [1]"
    )


def search(options: argparse.Namespace, recipe: Recipe, has_output: bool) -> None:
    """Run the command.

    Args:
        options: of the command line.
        recipe: of all trials.
        has_output: whether the command line names the folder.

    Raises:
        UsageError: for a recipe, a space or a folder that cannot be.
        LeantuneError: no trial is finished.
    """
    if not has_output:
        raise UsageError("--output FOLDER is missing: what is tried goes there")
    from leantune.cluster.search.run import BEST, TRIALS, best_of, train_winner
    from leantune.cluster.search.run import search as run
    from leantune.cluster.search.settings import Search
    from leantune.cluster.search.space import read_space
    from leantune.system.console import console

    settings = Search(
        recipe=recipe,
        space=None if options.space is None else read_space(options.space),
        trials=options.trials,
        deadline=None if options.minutes is None else time.time() + 60 * options.minutes,
        workers=options.workers,
        cluster=options.cluster,
        cores_per_job=options.cores_per_job,
        resume=options.resume,
    )
    terminal = console(stderr=True, quiet=options.quiet)
    tried = run(settings, lambda each: terminal.print(_line(each, recipe.selection_metric), soft_wrap=True))
    best = best_of(tried, recipe.selection_metric)
    if best is None:
        raise LeantuneError(
            f"none of {len(tried)} trials is finished; {settings.folder / TRIALS} says why, and --resume goes on"
        )
    console().print(_table(tried, recipe.selection_metric, best))
    for name in (TRIALS, BEST):
        console().print(str(settings.folder / name), soft_wrap=True)
    if options.train_winner:
        from leantune.cli.output import print_result

        print_result(train_winner(settings, terminal))


def _line(tried: Tried, metric: str) -> str:
    trial = tried.trial
    values = " ".join(f"{key}={value}" for key, value in tried.values.items())
    what = trial.error if trial.error else f"{metric.replace('_', ' ')} {_figure(trial.value, metric)}"
    return f"trial {tried.number}: {values}: {trial.status}, {what}, {trial.seconds:.0f} s"


def _figure(value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if metric == "log_loss" else f"{100 * value:.2f} %"


def _table(tried: Sequence[Tried], metric: str, best: Tried) -> Table:
    """The trials, the best first."""
    from rich.table import Table

    sign = 1 if metric == "log_loss" else -1
    measured = [each for each in tried if each.trial.value is not None]
    measured.sort(key=lambda each: (each is not best, each.trial.status, sign * (each.trial.value or 0.0)))
    keys = list(best.values)
    table = Table(box=None, pad_edge=False)
    for name in ("trial", *keys, "status", metric.replace("_", " "), "parameters", "seconds"):
        table.add_column(name, justify="left" if name == "status" else "right", overflow="fold")
    for each in measured[:MAX_ROWS_SHOWN]:
        trial = each.trial
        parameters = "-" if trial.parameters is None else f"{trial.parameters:,}"
        values = [str(each.values.get(key, "")) for key in keys]
        figures = [_figure(trial.value, metric), parameters, f"{trial.seconds:.0f}"]
        table.add_row(str(each.number), *values, trial.status, *figures)
    if rest := len(tried) - min(len(measured), MAX_ROWS_SHOWN):
        table.caption = f"and {rest} more"
    return table
