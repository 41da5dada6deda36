"""Printing of abstention thresholds."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from leantune.config.abstention_file import Abstention, Threshold
from leantune.questions.abstain.compute import least_predictions
from leantune.system.console import console


def print_abstention(chosen: Abstention, classes: Sequence[str]) -> None:
    """Print the thresholds for all classes together and for each class, with their guarantee."""
    table = Table(box=None, pad_edge=False)
    for name in ("predicted class", "threshold", "answered", "precision", "rows"):
        table.add_column(name, justify="left" if name == "predicted class" else "right")
    table.add_row("any", *_cells(chosen.overall))
    for name in classes:
        table.add_row(name, *_cells(chosen.per_class.get(name)))
    terminal = console()
    terminal.print(table)
    if chosen.overall is None or len(chosen.per_class) < len(classes):
        least = least_predictions(chosen.precision, chosen.confidence)
        terminal.print(
            f"'never': no threshold keeps this precision for sure. It needs at least {least:,} predictions without an "
            "error, more with errors. Give more labelled rows with --data, or a lower --precision or --confidence.",
            soft_wrap=True,
        )
    terminal.print(
        f"Each threshold keeps a precision of {100 * chosen.precision:g} % with a probability of "
        f"{100 * chosen.confidence:g} % on rows like those of {chosen.source}. Temperature: "
        f"{chosen.temperature:.2f}.",
        soft_wrap=True,
    )


def _cells(threshold: Threshold | None) -> list[str]:
    if threshold is None:
        return ["", "never", "", ""]
    return [
        f"{threshold.least:.4f}" if threshold.least else "answers everything",
        f"{100 * threshold.coverage:.1f} %",
        f"{100 * threshold.precision:.1f} %",
        f"{threshold.rows:,}",
    ]
