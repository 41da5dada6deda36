"""``leantune search``: a line for each trial, a table of all, and the recipe of the best."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from leantune.cli.options import add_fields, progress_console, values_of
from leantune.cli.recipe import add_recipe, recipe_from
from leantune.cli.values import path
from leantune.cluster.search.options import SearchOptions
from leantune.config import parse_overrides
from leantune.errors import LeantuneError, UsageError
from leantune.system.memory import use_huge_pages
from leantune.system.openmp import has_int8_products, spin_briefly

if TYPE_CHECKING:
    from rich.table import Table

    from leantune.cluster.search.settings import Tried

HELP = "find the best recipe inside the limit"
EXAMPLES = """
    leantune search --data train.csv --model asset:minilm --max-trainable-params 100k --output runs/search --trials 20
    leantune search --data train.csv --model asset:minilm --output runs/search --trials 40 --space space.yaml
    leantune search --data train.csv --model asset:minilm --output runs/search --trials 40 --resume
    leantune train runs/search/best.yaml output=runs/best
"""
MAX_ROWS_SHOWN = 20
"""Trials in the table of the terminal, the best first; ``trials.csv`` has all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_recipe(parser)
    parser.usage = f"{parser.prog} [RECIPE] --output FOLDER --trials N [KEY=VALUE ...] [--KEY VALUE ...]"
    parser.add_argument(
        "--space",
        metavar="FILE",
        type=path,
        help="YAML: key: [value, ...], or key: {low: ..., high: ..., log: true}; default: learning_rate, targets, "
        "init_rank and epochs, except those that the recipe sets",
    )
    parser.add_argument(
        "--train-winner", action="store_true", help="train the best recipe into FOLDER/winner, and test it"
    )
    add_fields(parser, SearchOptions)


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        UsageError: for an invalid recipe, space or folder.
        LeantuneError: if no trial finished.
    """
    use_huge_pages()
    if has_int8_products():
        spin_briefly()
    recipe = recipe_from(options)
    if "output" not in parse_overrides(options.overrides) and options.key_output is None:
        raise UsageError("--output FOLDER is missing: the trials are written there")
    from leantune.cli.output import figure_of
    from leantune.cluster.search.run import BEST, TRIALS, best_of, search, train_winner
    from leantune.cluster.search.settings import Search
    from leantune.cluster.search.space import read_space
    from leantune.system.console import console

    metric = recipe.selection_metric
    settings = Search(
        recipe=recipe,
        space=None if options.space is None else read_space(options.space),
        **values_of(options, SearchOptions),
    )
    terminal = progress_console(options)

    def say(each: Tried) -> None:
        values = " ".join(f"{key}={value}" for key, value in each.values.items())
        what = each.trial.error or f"{metric.replace('_', ' ')} {figure_of(each.trial.value, metric)}"
        line = f"trial {each.number}: {values}: {each.trial.status}, {what}, {each.trial.seconds:.0f} s"
        terminal.print(line, soft_wrap=True)

    tried = search(settings, say)
    best = best_of(tried, metric)
    if best is None:
        raise LeantuneError(
            f"none of {len(tried)} trials finished; {settings.folder / TRIALS} says why, and --resume continues"
        )
    console().print(_table(tried, metric, best))
    for name in (TRIALS, BEST):
        console().print(str(settings.folder / name), soft_wrap=True)
    if options.train_winner:
        from leantune.cli.output import print_result

        print_result(train_winner(settings, terminal))


def _table(tried: Sequence[Tried], metric: str, best: Tried) -> Table:
    """The trials, the best first."""
    from rich.table import Table

    from leantune.cli.output import figure_of

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
        figures = [figure_of(trial.value, metric), parameters, f"{trial.seconds:.0f}"]
        table.add_row(str(each.number), *values, trial.status, *figures)
    if rest := len(tried) - min(len(measured), MAX_ROWS_SHOWN):
        table.caption = f"and {rest} more"
    return table
