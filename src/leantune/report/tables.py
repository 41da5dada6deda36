"""Tables as the templates take them: rows of figures, and whole numbers in shaded cells."""

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
    """Rows of which the first column names the row, and figures from `numeric_from` on."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    numeric_from: int = 1
    look: str | None = None
    """CSS class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatTable:
    """Whole numbers in cells that are shaded by them."""

    caption: str
    corner: str = ""
    """What rows and columns are."""
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[int, float] | None]]]
    """Name of a row; of each cell value and shade, from 0 to 1, or None where it is empty."""
    is_compact: bool = False
    """Small squares without labels; each value is in the cell's tooltip."""
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
    """Shade values; ``heat_of(row, value)`` is from 0 to 1, a value None an empty cell."""
    return HeatTable(
        columns=column_labels,
        rows=[
            (label, [None if value is None else (value, heat_of(i, value)) for value in values[i]])
            for i, label in enumerate(row_labels)
        ],
        **about,
    )
