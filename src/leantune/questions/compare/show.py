"""Printing of a comparison."""

from __future__ import annotations

from rich.table import Table as Drawn

from leantune.questions.compare.compute import RunComparison
from leantune.questions.compare.page import classes_table, rows_name, runs_table, sentence
from leantune.report.tables import Table
from leantune.system.console import console

MAX_CLASSES = 5
"""Number of classes printed for each run; the page has all."""


def print_comparison(found: RunComparison) -> None:
    """Print the runs, and for each but the first what differs from the first."""
    terminal, first = console(), found.runs[0].name
    terminal.print(f"{found.num_rows:,} rows: {rows_name(found)}", soft_wrap=True)
    terminal.print(_drawn(runs_table(found)))
    for each in found.against_first:
        terminal.print(f"\n{sentence(each, first)}", soft_wrap=True)
        changed = [one for one in each.classes if one.gain]
        if changed:
            terminal.print(_drawn(classes_table(changed, first, each.name), MAX_CLASSES))


def _drawn(table: Table, limit: int | None = None) -> Drawn:
    drawn = Drawn(box=None, pad_edge=False)
    for i, heading in enumerate(table.headings):
        drawn.add_column(heading, justify="left" if i == 0 else "right")
    for row in table.rows[:limit]:
        drawn.add_row(*map(str, row))
    return drawn
