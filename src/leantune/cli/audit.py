"""``leantune audit``: the labels that are probably wrong, the most suspect first."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from leantune.config import Recipe
from leantune.errors import UsageError
from leantune.system.console import console

if TYPE_CHECKING:
    from leantune.questions.audit.compute import Audit

FOLDS, SHOWN_PAIRS = 5, 5


def add_arguments(parser: Any) -> None:
    """The arguments of the command beside the recipe."""
    parser.add_argument(
        "--folds",
        metavar="N",
        type=int,
        default=FOLDS,
        help="classifiers that are trained, each on all other rows [5]",
    )


def audit_command(options: argparse.Namespace, recipe: Recipe, progress: Any) -> None:
    """Run the command.

    Raises:
        UsageError: if the output is there, or the recipe names rows that an audit has no use for.
        LeantuneError: as `leantune.questions.audit.compute.audit`.
    """
    folder = Path(recipe.output).expanduser()
    if folder.exists():
        raise UsageError(f"output {folder}: exists already; choose another folder or remove it")
    if options.folds < 2:
        raise UsageError(f"--folds {options.folds}: must be 2 or more")
    if recipe.validation or recipe.unlabelled:
        raise UsageError(
            "validation and unlabelled: an audit looks at the rows of data alone; leave them out"
        )
    from leantune.questions.audit.compute import audit
    from leantune.questions.audit.files import write_audit
    from leantune.questions.audit.pair_files import suspect_pairs, write_pair_audit

    found = audit(
        replace(recipe, test=None),
        folds=options.folds,
        console=progress,
        on_fold=lambda fold: progress.print(f"fold {fold + 1} of {options.folds} is classified"),
    )
    if found.rows.is_multi_label:
        pairs = suspect_pairs(found)
        wanted = {int(found.rows.row_of[position]) for position, _ in pairs}
        write_pair_audit(folder, found, _texts(found, wanted))
        _print_pairs(found, pairs, folder)
        return
    wanted = {int(found.rows.row_of[position]) for position in found.suspects}
    write_audit(folder, found, _texts(found, wanted))
    _print(found, len(wanted), folder)


def _print_pairs(found: Audit, pairs: Sequence[tuple[int, int]], folder: Path) -> None:
    from leantune.questions.audit.pair_files import by_label

    terminal = console()
    num_rows = len({position for position, _ in pairs})
    terminal.print(f"{len(pairs):,} labels of {num_rows:,} of {len(found.rows):,} rows are probably wrong")
    table = Table(box=None, pad_edge=False)
    table.add_column("label")
    for name in ("there and doubtful", "missing"):
        table.add_column(name, justify="right")
    for each in by_label(found, pairs)[:SHOWN_PAIRS]:
        table.add_row(each["label"], f"{each['doubtful']:,}", f"{each['missing']:,}")
    terminal.print(table)
    terminal.print(f"{folder / 'suspects.csv'}: all of them, the most suspect first")


def _texts(found: Audit, wanted: set[int]) -> dict[int, str]:
    """The texts of some rows, those of a pair joined."""
    texts = {}
    for batch in found.run.data.sources["train"].batches():
        for i, text in enumerate(batch.texts):
            if batch.start + i in wanted:
                texts[batch.start + i] = text if batch.pairs is None else f"{text} | {batch.pairs[i]}"
    return texts


def _print(found: Audit, count: int, folder: Path) -> None:
    terminal = console()
    terminal.print(f"{count:,} of {len(found.rows):,} rows have a likely class that is not their label")
    table = Table(box=None, pad_edge=False)
    table.add_column("labelled")
    table.add_column("likely")
    table.add_column("rows", justify="right")
    for (label, likely, rows), _ in zip(found.confusion(), range(SHOWN_PAIRS), strict=False):
        table.add_row(label, likely, f"{rows:,}")
    terminal.print(table)
    terminal.print(f"{folder / 'suspects.csv'}: all of them, the most suspect first")
