"""Concatenates tables: the rows of the first are followed by the rows of the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from leantune.data.text.table import CellBatch, Row, Table, place_of
from leantune.errors import DataError


@dataclass(frozen=True, slots=True)
class ChainedTable:
    """Concatenated tables that all have the wanted columns."""

    names: tuple[str, ...]
    """The files of the tables, as named in messages."""
    tables: tuple[Table, ...]
    columns: tuple[str, ...]
    """The columns to read."""

    @property
    def class_names(self) -> Mapping[str, tuple[str, ...]]:
        """Class names of each numbered column, the same in all tables."""
        return self.tables[0].class_names

    def batches(self, wanted: Sequence[str], batch_rows: int) -> Iterator[CellBatch]:
        """Yield the wanted columns, at most ``batch_rows`` rows at a time; a batch may span files."""
        rows: list[Row] = []
        cells: dict[str, list[object]] = {column: [] for column in wanted}
        for name, table in zip(self.names, self.tables, strict=True):
            for batch in table.batches(wanted, batch_rows):
                rows += [place_of(row, name) for row in batch.rows]
                for column in wanted:
                    cells[column] += batch.cells[column]
                if len(rows) >= batch_rows:
                    yield CellBatch(rows[:batch_rows], {name: of[:batch_rows] for name, of in cells.items()})
                    rows, cells = rows[batch_rows:], {name: of[batch_rows:] for name, of in cells.items()}
        if rows:
            yield CellBatch(rows, cells)

    def locate(self, index: int) -> Row:
        """Return the file of a 0-based row and the row's number in it."""
        rows = (row for batch in self.batches(self.columns[:1], 4096) for row in batch.rows)
        return next(islice(rows, index, None))


def chain(names: Sequence[str], tables: Sequence[Table], columns: Sequence[str]) -> ChainedTable:
    """Concatenate tables.

    Raises:
        DataError: the numbers in a column stand for different classes than in the first table.
    """
    first = tables[0].class_names
    for name, table in zip(names, tables, strict=True):
        for column in columns:
            if table.class_names.get(column) != first.get(column):
                raise DataError(
                    f"the numbers in {column!r} stand for other classes than in {names[0]}: read the files separately",
                    path=name,
                )
    return ChainedTable(tuple(names), tuple(tables), tuple(columns))
