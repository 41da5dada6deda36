"""Printing of an audit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from leantune.questions.audit.compute import Audit
from leantune.questions.audit.files import by_label, suspect_pairs
from leantune.system.console import console

SHOWN = 5
"""Number of table rows."""


def print_audit(found: Audit, folder: Path) -> None:
    """Print how many labels are probably wrong and which labels are confused most."""
    if found.rows.is_multi_label:
        _print_pairs(found, suspect_pairs(found))
    else:
        _print_rows(found)
    console().print(f"{folder / 'suspects.csv'}: all suspect labels, the most suspect first")


def _print_rows(found: Audit) -> None:
    terminal = console()
    count = len({int(found.rows.row_of[position]) for position in found.suspects})
    terminal.print(f"{count:,} of {len(found.rows):,} rows have a label that is not the most likely class")
    table = Table(box=None, pad_edge=False)
    table.add_column("labelled")
    table.add_column("likely")
    table.add_column("rows", justify="right")
    for (label, likely, rows), _ in zip(found.confusion(), range(SHOWN), strict=False):
        table.add_row(label, likely, f"{rows:,}")
    terminal.print(table)


def _print_pairs(found: Audit, pairs: Sequence[tuple[int, int]]) -> None:
    terminal = console()
    num_rows = len({position for position, _ in pairs})
    terminal.print(f"{len(pairs):,} labels in {num_rows:,} of {len(found.rows):,} rows are probably wrong")
    table = Table(box=None, pad_edge=False)
    table.add_column("label")
    for name in ("given and doubtful", "missing"):
        table.add_column(name, justify="right")
    for each in by_label(found, pairs)[:SHOWN]:
        table.add_row(each["label"], f"{each['doubtful']:,}", f"{each['missing']:,}")
    terminal.print(table)
