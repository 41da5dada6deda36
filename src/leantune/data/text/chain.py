"""Several tables as one: the rows of the first, then those of the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from leantune.data.text.table import CellBatch, Row, Table, place_of
from leantune.errors import DataError


@dataclass(frozen=True, slots=True)
class ChainedTable:
    """Tables that have the wanted columns."""

    names: tuple[str, ...]
    """The files of the tables, as messages name them."""
    tables: tuple[Table, ...]
    columns: tuple[str, ...]
    """The columns that are read."""

    @property
    def class_names(self) -> Mapping[str, tuple[str, ...]]:
        """Column name -> names of the classes that its numbers stand for, the same in all tables."""
        return self.tables[0].class_names

    def batches(self, wanted: Sequence[str], batch_rows: int) -> Iterator[CellBatch]:
        """The wanted columns, at most ``batch_rows`` rows at a time, of one file or of several."""
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
        """The file and the row in it."""
        rows = (row for batch in self.batches(self.columns[:1], 4096) for row in batch.rows)
        return next(islice(rows, index, None))


def chain(names: Sequence[str], tables: Sequence[Table], columns: Sequence[str]) -> ChainedTable:
    """The rows of all tables.

    Raises:
        DataError: if the numbers in a column stand for other classes than in the first table.
    """
    first = tables[0].class_names
    for name, table in zip(names, tables, strict=True):
        for column in columns:
            if table.class_names.get(column) != first.get(column):
                raise DataError(
                    f"the numbers in {column!r} stand for other classes than in {names[0]}: read the files apart",
                    path=name,
                )
    return ChainedTable(tuple(names), tuple(tables), tuple(columns))
