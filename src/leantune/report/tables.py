"""Tables for the templates: plain tables and heat maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from leantune.report.wording import (
    count,
    significant,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table whose first column names the row and whose columns from `numeric_from` on are numbers."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    numeric_from: int = 1
    look: str | None = None
    """CSS class of the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatTable:
    """A heat map of whole numbers."""

    caption: str
    corner: str = ""
    """Heading of the top left cell, which names rows and columns."""
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[int, float] | None]]]
    """Name and cells of each row. A cell is a value and a shade between 0 and 1, or None if it is empty."""
    is_compact: bool = False
    """Whether cells are small squares that show their value only as a tooltip."""
    look: str = ""


def figure(value: float | None) -> str:
    return count(value) if isinstance(value, int) or (value or 0) >= 1000 else significant(value)


def heat_table(
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    values: Sequence[Sequence[int | None]],
    heat_of: Callable[[int, int], float],
    **about: Any,
) -> HeatTable:
    """Return a heat map. ``heat_of(row, value)`` gives a shade between 0 and 1; None is an empty cell."""
    return HeatTable(
        columns=column_labels,
        rows=[
            (label, [None if value is None else (value, heat_of(i, value)) for value in values[i]])
            for i, label in enumerate(row_labels)
        ],
        **about,
    )
