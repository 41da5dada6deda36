"""Columns of a table that came out of a pickle, and the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from leantune.data.table import CellBatch
from leantune.data.wording import Opaque


class Column(Protocol):
    """Cells of one name."""

    def __len__(self) -> int:
        """How many rows."""
        ...

    def cells(self, start: int, stop: int) -> list[object]:
        """The cells of rows ``start`` to ``stop``, as Python values."""
        ...


@dataclass(frozen=True, slots=True)
class ListColumn:
    """Cells that are Python values already."""

    values: list[object]

    def __len__(self) -> int:
        return len(self.values)

    def cells(self, start: int, stop: int) -> list[object]:
        """The cells of rows ``start`` to ``stop``."""
        return self.values[start:stop]


@dataclass(frozen=True, slots=True)
class ArrayColumn:
    """Cells in a NumPy array of shape (rows,), not of objects."""

    values: npt.NDArray[np.generic]

    def __len__(self) -> int:
        return len(self.values)

    def cells(self, start: int, stop: int) -> list[object]:
        """The cells of rows ``start`` to ``stop``."""
        return list(self.values[start:stop].tolist())


@dataclass(frozen=True, slots=True)
class ArrowColumn:
    """Cells in a chunked Arrow array that was validated."""

    values: pa.ChunkedArray

    def __len__(self) -> int:
        return len(self.values)

    def cells(self, start: int, stop: int) -> list[object]:
        """The cells of rows ``start`` to ``stop``."""
        return list(self.values.slice(start, stop - start).to_pylist())


@dataclass(frozen=True, slots=True)
class OpaqueColumn:
    """Cells that hold neither texts nor labels, and were not read."""

    length: int

    def __len__(self) -> int:
        return self.length

    def cells(self, start: int, stop: int) -> list[object]:
        """A stand-in for each of the rows ``start`` to ``stop``."""
        return [Opaque("a value of another type")] * (min(stop, self.length) - start)


@dataclass(frozen=True, slots=True)
class PickleTable:
    """Columns of equal length."""

    contents: Mapping[str, Column]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns, in the file's order."""
        return tuple(self.contents)

    def batches(self, wanted: Sequence[str], batch_rows: int) -> Iterator[CellBatch]:
        """The wanted columns, at most ``batch_rows`` rows at a time."""
        num_rows = min(map(len, self.contents.values()), default=0)
        for start in range(0, num_rows, batch_rows):
            stop = min(start + batch_rows, num_rows)
            cells = {name: self.contents[name].cells(start, stop) for name in wanted}
            yield CellBatch(range(start + 1, stop + 1), cells)

    def locate(self, index: int) -> int:
        """The 1-based row."""
        return index + 1
