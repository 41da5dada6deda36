"""Printing of a passport."""

from __future__ import annotations

from rich.table import Table

from leantune.questions.passport.compute import FormReport, Passport
from leantune.system.console import console


def print_passport(found: Passport) -> None:
    """Print all forms, with the measured classifier first."""
    table = Table(box=None, pad_edge=False)
    table.add_column("form")
    for name in ("accuracy", "agreement", "McNemar p", "worst class", "MB", "one text", "texts/s"):
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
        terminal.print(f"{name}: not available: {why}", soft_wrap=True)


def _worst(form: FormReport) -> str:
    """Return the class with the largest loss in accuracy, in percentage points."""
    worst = max(form.classes, key=lambda each: each.loss)
    return f"{worst.label} -{100 * worst.loss:.1f}" if worst.loss > 0 else ""
