"""The table decoded from a pickle, and its columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from leantune.system.messages import Opaque


class Column(Protocol):
    """The cells of one column."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def cells(self, start: int, stop: int) -> list[object]:
        """Return the cells of rows ``start`` to ``stop`` (exclusive) as Python values."""
        ...


@dataclass(frozen=True, slots=True)
class ListColumn:
    """A column of Python values."""

    values: list[object]

    def __len__(self) -> int:
        return len(self.values)

    def cells(self, start: int, stop: int) -> list[object]:
        """The cells of rows ``start`` to ``stop``."""
        return self.values[start:stop]


@dataclass(frozen=True, slots=True)
class ArrayColumn:
    """A column in a NumPy array of shape (rows,) whose dtype is not object."""

    values: npt.NDArray[np.generic]

    def __len__(self) -> int:
        return len(self.values)

    def cells(self, start: int, stop: int) -> list[object]:
        """The cells of rows ``start`` to ``stop``."""
        return list(self.values[start:stop].tolist())


@dataclass(frozen=True, slots=True)
class ArrowColumn:
    """A column in a validated, chunked Arrow array."""

    values: pa.ChunkedArray

    def __len__(self) -> int:
        return len(self.values)

    def cells(self, start: int, stop: int) -> list[object]:
        """The cells of rows ``start`` to ``stop``."""
        return list(self.values.slice(start, stop - start).to_pylist())


@dataclass(frozen=True, slots=True)
class OpaqueColumn:
    """A column of values that are neither texts nor labels and were not read."""

    length: int

    def __len__(self) -> int:
        return self.length

    def cells(self, start: int, stop: int) -> list[object]:
        """Return a placeholder for each of the rows ``start`` to ``stop`` (exclusive)."""
        return [Opaque("a value of another type")] * (min(stop, self.length) - start)


@dataclass(frozen=True, slots=True)
class DecodedTable:
    """Columns of equal length, by name and in the table's order."""

    contents: Mapping[str, Column]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Class names of each column whose numbers stand for classes (``datasets.ClassLabel``)."""
