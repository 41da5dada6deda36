"""Printing of a frontier."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from leantune.config.frontier_file import FrontierRecord
from leantune.questions.frontier.compute import Point
from leantune.questions.frontier.files import PAGE, RECIPE
from leantune.report.frontier import finding, table
from leantune.system.console import console
from leantune.training.before.dataset import ENOUGH_HELD_OUT, few_held_out


def line_of(point: Point) -> str:
    """Return the progress line of a measured classifier."""
    return f"{point.name}: {point.parameters:,} trainable parameters, accuracy {100 * point.accuracy:.1f} %"


def print_frontier(record: FrontierRecord, folder: Path) -> None:
    """Print all classifiers, the result, and the command that trains the smallest one."""
    terminal, shown = console(), table(record)
    drawn = Table(box=None, pad_edge=False)
    for i, heading in enumerate(shown.headings):
        drawn.add_column(heading, justify="left" if i == 0 else "right")
    for row in shown.rows:
        drawn.add_row(*map(str, row))
    terminal.print(drawn)
    terminal.print(finding(record), soft_wrap=True)
    if record.held_out < ENOUGH_HELD_OUT:
        terminal.print(few_held_out(record.held_out), soft_wrap=True)
    terminal.print(f"train it:  leantune train {folder / RECIPE}", soft_wrap=True)
    terminal.print(f"open it:   {folder / PAGE}", soft_wrap=True)
