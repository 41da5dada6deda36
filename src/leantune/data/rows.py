"""Labelled rows of one or more token tables, and the batches that are cut from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from leantune.data.tokens import TokenTable

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """N rows chosen from token tables, each with its class."""

    tables: tuple[TokenTable, ...]
    table_of: Index
    """``(N,)`` which table a row is in."""
    row_of: Index
    """``(N,)`` where it is there."""
    label_ids: Index
    """``(N,)`` class ids."""

    @classmethod
    def of(cls, table: TokenTable, rows: Index, label_ids: Index) -> LabelledRows:
        """``rows`` of one table; ``label_ids`` are those of these rows."""
        return cls((table,), np.zeros(len(rows), dtype=np.int64), np.asarray(rows), np.asarray(label_ids))

    def __len__(self) -> int:
        return len(self.row_of)

    def __add__(self, other: LabelledRows) -> LabelledRows:
        return LabelledRows(
            self.tables + other.tables,
            np.concatenate([self.table_of, other.table_of + len(self.tables)]),
            np.concatenate([self.row_of, other.row_of]),
            np.concatenate([self.label_ids, other.label_ids]),
        )

    def __getitem__(self, positions: Index) -> LabelledRows:
        return LabelledRows(
            self.tables, self.table_of[positions], self.row_of[positions], self.label_ids[positions]
        )

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """``(N,)`` tokens of each row."""
        return self._gather([table.lengths for table in self.tables])

    @property
    def full_lengths(self) -> npt.NDArray[np.int32]:
        """``(N,)`` tokens of each row before truncation."""
        return self._gather([table.full_lengths for table in self.tables])

    def second_starts(self) -> npt.NDArray[np.int32]:
        """``(N,)`` first token of the second text of each row."""
        return self._gather([table.second_starts for table in self.tables])

    def tokens(self) -> list[npt.NDArray[np.int32]]:
        """The token ids of every row."""
        return [self.tables[t].tokens(int(r)) for t, r in zip(self.table_of, self.row_of, strict=True)]

    def name_of(self, position: int) -> str:
        """How to name one row to the user: file and 0-based row."""
        return f"{self.tables[self.table_of[position]].source_name} row {self.row_of[position]}"

    def _gather(self, columns: list[npt.NDArray[np.int32]]) -> npt.NDArray[np.int32]:
        gathered = np.empty(len(self), dtype=np.int32)
        for i, column in enumerate(columns):
            chosen = self.table_of == i
            gathered[chosen] = column[self.row_of[chosen]]
        return gathered


@lru_cache(maxsize=2)
def shuffled(num_rows: int, *, seed: int, epoch: int) -> Index:
    """The order of one epoch: a permutation that depends on seed and epoch alone, so that a resumed
    run finds its place without any stored state.
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_rows).astype(np.int64)
    order.flags.writeable = False  # shared by all steps of the epoch
    return order


def by_length(lengths: npt.NDArray[np.int32], batch_size: int) -> Iterator[Index]:
    """Positions in batches of similar length, longest first, so that the largest batch comes first
    and memory does not grow later.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]
