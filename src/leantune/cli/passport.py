"""``leantune passport``: every form of a run on the same rows, as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from leantune.errors import CheckpointError, UsageError
from leantune.system.console import console

if TYPE_CHECKING:
    from leantune.questions.passport.compute import FormReport, Passport

LIMIT_POINTS = 2.0
SHOWN_CLASSES = 5


def add_arguments(parser: Any) -> None:
    """The arguments of the command."""
    parser.add_argument("run_folder", metavar="RUN", help="a run")
    parser.add_argument("rows", metavar="DATA", help="labelled rows that were not trained on")
    parser.add_argument("--url", help="a server of the run, too, as http://127.0.0.1:8000")
    parser.add_argument("--text-column", help="column of the text; default: as in training")
    parser.add_argument("--text-pair-column", help="column of the second text; default: as in training")
    parser.add_argument("--label-column", help="column of the label; default: as in training")
    parser.add_argument(
        "--max-class-loss",
        metavar="POINTS",
        type=float,
        default=LIMIT_POINTS,
        help="end with 5 if a class of 20 rows or more loses more accuracy in a form [2]",
    )
    parser.add_argument(
        "--output", metavar="FILE", help="JSON file with everything; default: RUN/passport.json"
    )


def passport_command(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        UsageError: if ``RUN`` is no run.
        CheckpointError: naming the form and the class that lost more than the limit.
        LeantuneError: as `leantune.questions.passport.compute.passport`.
    """
    from leantune.assets.download import resolve_location
    from leantune.data.text.read import Columns, open_examples
    from leantune.inference.load import require_run
    from leantune.inference.saved import read_saved
    from leantune.questions.passport.compute import passport
    from leantune.system.atomic import write_text
    from leantune.training.before.folder import PASSPORT

    run = Path(options.run_folder).expanduser()
    require_run(run)
    if not options.max_class_loss >= 0:
        raise UsageError(f"--max-class-loss {options.max_class_loss}: must be points of accuracy from 0 on")
    settings = read_saved(run).settings
    columns = Columns(
        text=options.text_column or settings.text_column,
        text_pair=options.text_pair_column or settings.text_pair_column,
        label=options.label_column or settings.label_column,
    )
    source = open_examples(resolve_location(options.rows), columns, labels="required", split="test")
    with console(stderr=True, quiet=options.quiet).status("classifying in every form"):
        found = passport(run, source, url=options.url)
    target = Path(options.output or run / PASSPORT)
    write_text(target, json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n")
    _print(found)
    print(target, file=sys.stderr)
    _check(found, options.max_class_loss)


def _print(found: Passport) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("form")
    for name in ("accuracy", "equal to as measured", "McNemar p", "worst class", "MB", "one text", "texts/s"):
        table.add_column(name, justify="right")
    for form in found.forms:
        low, high = 100 * form.accuracy_interval.low, 100 * form.accuracy_interval.high
        table.add_row(
            form.name,
            f"{100 * form.accuracy:.2f} % ({low:.1f} to {high:.1f})",
            f"{100 * form.agreement:.2f} %",
            f"{form.comparison.p_value:.2g}",
            _worst(form),
            "" if form.bytes is None else f"{form.bytes / 1e6:.1f}",
            f"{form.single_text_ms:.1f} ms",
            f"{form.texts_per_s:,.0f}",
        )
    terminal = console()
    terminal.print(f"{found.num_rows:,} rows of {found.data}")
    terminal.print(table)
    for name, why in found.absent.items():
        terminal.print(f"{name}: left out: {why}", soft_wrap=True)


def _worst(form: FormReport) -> str:
    """The class that loses most."""
    worst = max(form.classes, key=lambda each: each.loss)
    return f"{worst.label} -{100 * worst.loss:.1f}" if worst.loss > 0 else ""


def _check(found: Passport, limit_points: float) -> None:
    lost = [(form, change) for form in found.forms for change in form.lost(limit_points / 100)]
    if lost:
        form, change = max(lost, key=lambda each: each[1].loss)
        raise CheckpointError(
            f"{form.name}: of {change.rows:,} rows of the class {change.label!r} {100 * change.accuracy:.1f} % are "
            f"right, {100 * change.accuracy_as_measured:.1f} % as measured; {limit_points:g} points less are allowed: "
            "deploy another form, or allow more with --max-class-loss"
        )
