"""What every reader gives: named columns of cells, in batches, as often as wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from leantune.errors import DataError
from leantune.system.messages import listed


class Place(NamedTuple):
    """Where a row is, if the name of the source does not say it: the file, and the number there."""

    file: str
    row: int | None
    """None: the file is the row."""


Row: TypeAlias = int | Place
"""What an error message prints for a row."""


def place_of(row: Row, name: str) -> Place:
    """The file and the number of a row of the source called ``name``."""
    return row if isinstance(row, Place) else Place(name, row)


@dataclass(frozen=True, slots=True)
class CellBatch:
    """Consecutive rows.

    Args:
        rows: for each row what an error message prints: the line of a text file where the record begins (the
            header is line 1), or the 1-based row of a table; with the file, if the source has several.
        cells: column name -> one cell a row, as the format gives them (``str``, ``int``, ``None``...).
    """

    rows: Sequence[Row]
    cells: dict[str, list[object]]


class Table(Protocol):
    """Rows of named cells."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns, in the file's order."""
        ...

    @property
    def class_names(self) -> Mapping[str, tuple[str, ...]]:
        """Column name -> names of the classes that its numbers stand for (``datasets.ClassLabel``)."""
        ...

    def batches(self, wanted: Sequence[str], batch_rows: int) -> Iterator[CellBatch]:
        """The wanted columns, at most ``batch_rows`` rows at a time."""
        ...

    def locate(self, index: int) -> Row:
        """What an error message prints for a 0-based row."""
        ...


class NamesInRows:
    """A table whose format does not number its classes: the rows have their names, if they have any."""

    __slots__ = ()

    @property
    def class_names(self) -> Mapping[str, tuple[str, ...]]:
        """Always empty."""
        return {}


def check_unique(columns: Sequence[str], name: str, row: int | None = None) -> None:
    """Raise DataError if two columns have one name; a spreadsheet's empty columns have none."""
    doubles = sorted(column for column, count in Counter(columns).items() if column and count > 1)
    if doubles:
        raise DataError(
            f"more than one column is named {listed(doubles)}: give every column its own name",
            path=name,
            row=row,
        )
