"""The interface of all readers: named columns of cells, read in batches any number of times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from leantune.errors import DataError
from leantune.system.messages import listed


class Place(NamedTuple):
    """The file of a row and its number there, for sources with several files or sheets."""

    file: str
    row: int | None
    """The row number; None if the whole file is one row."""


Row: TypeAlias = int | Place
"""A row as shown in messages."""


def place_of(row: Row, name: str) -> Place:
    """Return the file and the number of a row of the source called ``name``."""
    return row if isinstance(row, Place) else Place(name, row)


@dataclass(frozen=True, slots=True)
class CellBatch:
    """Consecutive rows.

    Args:
        rows: each row as shown in messages: the line of a text file where the record begins (the header is line 1)
            or the 1-based row of a table, with the file if the source has several.
        cells: the cells of each column, one per row, in the types of the format (``str``, ``int``, ``None``...).
    """

    rows: Sequence[Row]
    cells: dict[str, list[object]]


class Table(Protocol):
    """A table of rows with named columns."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns, in the file's order."""
        ...

    @property
    def class_names(self) -> Mapping[str, tuple[str, ...]]:
        """Class names of each column whose numbers stand for classes (``datasets.ClassLabel``)."""
        ...

    def batches(self, wanted: Sequence[str], batch_rows: int) -> Iterator[CellBatch]:
        """Yield the wanted columns, at most ``batch_rows`` rows at a time."""
        ...

    def locate(self, index: int) -> Row:
        """Return a 0-based row as shown in messages."""
        ...


class NamesInRows:
    """A table whose format does not number classes, so that labels are always names."""

    __slots__ = ()

    @property
    def class_names(self) -> Mapping[str, tuple[str, ...]]:
        """Always empty."""
        return {}


def check_unique(columns: Sequence[str], name: str, row: int | None = None) -> None:
    """Raise DataError if two columns have the same name; empty names, as in spreadsheets, may repeat."""
    doubles = sorted(column for column, count in Counter(columns).items() if column and count > 1)
    if doubles:
        raise DataError(
            f"more than one column is named {listed(doubles)}: give every column its own name",
            path=name,
            row=row,
        )
