"""``leantune frontier``: how small a classifier can be, and the recipe of the smallest that is good enough."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from leantune.config import Recipe
from leantune.errors import UsageError
from leantune.system.console import console

if TYPE_CHECKING:
    from leantune.config.frontier_file import FrontierRecord
    from leantune.questions.frontier.compute import Point

RECIPE, RUN = "recipe.yaml", "run"
"""In the output folder: what trains the smallest classifier, and the run of it."""


def add_arguments(parser: Any) -> None:
    """The arguments of the command beside the recipe."""
    parser.add_argument("--without-full", action="store_true", help="leave out full fine-tuning")
    parser.add_argument("--train", action="store_true", help="train the smallest that is good enough, too")
    parser.add_argument("--json", action="store_true", help="print JSON")


def frontier_command(options: argparse.Namespace, recipe: Recipe, progress: Any) -> None:
    """Run the command.

    Raises:
        UsageError: if the output is there, or the recipe asks for what a frontier varies.
        LeantuneError: as `leantune.questions.frontier.compute.frontier`.
    """
    folder = Path(recipe.output).expanduser()
    if folder.exists():
        raise UsageError(f"output {folder}: exists already; choose another folder or remove it")
    from leantune.cli.output import print_result
    from leantune.config.frontier_file import write_frontier
    from leantune.questions.frontier.compute import frontier
    from leantune.questions.frontier.page import write_frontier_page
    from leantune.system.atomic import atomic_folder, write_text

    found = frontier(
        replace(recipe, test=None),
        console=progress,
        with_full=not options.without_full,
        on_point=lambda point: progress.print(_line(point), soft_wrap=True),
    )
    smallest = found.smallest.recipe
    assert smallest is not None
    smallest = replace(smallest, test=recipe.test, output=str(folder / RUN))
    record = found.to_record()
    with atomic_folder(folder) as temporary:
        write_frontier(temporary, record)
        write_frontier_page(temporary, record, _name(recipe))
        write_text(temporary / RECIPE, smallest.to_yaml())
    if options.json:
        from leantune.config.record.run import to_json

        print(json.dumps(to_json(record)))
    else:
        _print(record, folder)
    if options.train:
        run = _trained(smallest, record, progress)
        if not options.json:
            print_result(run)


def _trained(recipe: Recipe, record: FrontierRecord, progress: Any) -> Path:
    """The folder of an ordinary run whose report has the frontier, too."""
    from leantune.config.frontier_file import write_frontier
    from leantune.report import write_model_card, write_report
    from leantune.training.run import run_training

    run = run_training(recipe, console=progress)
    write_frontier(run, record)
    write_model_card(run)
    write_report(run)
    return run


def _line(point: Point) -> str:
    return f"{point.name}: {point.parameters:,} trainable parameters, accuracy {100 * point.accuracy:.1f} %"


def _name(recipe: Recipe) -> str:
    return f"{Path(recipe.model).name} on {'/'.join(Path(recipe.data).parts[-2:])}"


def _print(record: FrontierRecord, folder: Path) -> None:
    from leantune.report.frontier import finding, table

    terminal, shown = console(), table(record)
    drawn = Table(box=None, pad_edge=False)
    for i, heading in enumerate(shown.headings):
        drawn.add_column(heading, justify="left" if i == 0 else "right")
    for row in shown.rows:
        drawn.add_row(*map(str, row))
    terminal.print(drawn)
    terminal.print(finding(record), soft_wrap=True)
    terminal.print(f"leantune train {folder / RECIPE}   trains it", soft_wrap=True)
    terminal.print(f"{folder / 'frontier.html'}   shows the curve", soft_wrap=True)
