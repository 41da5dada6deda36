"""Columns of a table that came out of a pickle, and the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from leantune.system.messages import Opaque


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
class DecodedTable:
    """Columns of equal length, by name, in the table's order."""

    contents: Mapping[str, Column]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column name -> names of the classes that its numbers stand for (``datasets.ClassLabel``)."""
