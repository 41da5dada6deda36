"""Labelled rows of one or more token tables, and functions that divide them into batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from leantune.data.tokens.table import TokenTable
from leantune.data.tokens.tokenization import Encoded

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """N rows chosen from token tables, each with one class or with any number of C classes."""

    tables: tuple[TokenTable, ...]
    table_of: Index
    """``(N,)`` index of each row's table."""
    row_of: Index
    """``(N,)`` number of each row in its table."""
    label_ids: Index
    """``(N,)`` class ids, or ``(N, C)`` ones and zeros that mark the classes of a row."""

    @classmethod
    def of(cls, table: TokenTable, rows: Index, label_ids: Index) -> LabelledRows:
        """Select ``rows`` of one table; ``label_ids`` has one entry for each selected row."""
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
    def is_multi_label(self) -> bool:
        """Whether a row may have any number of labels."""
        return self.label_ids.ndim == 2

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """``(N,)`` number of tokens of each row."""
        return self._gather([table.lengths for table in self.tables])

    @property
    def full_lengths(self) -> npt.NDArray[np.int32]:
        """``(N,)`` number of tokens of each row before truncation."""
        return self._gather([table.full_lengths for table in self.tables])

    def second_starts(self) -> npt.NDArray[np.int32]:
        """Return the position ``(N,)`` of the first token of the second text in each row."""
        return self._gather([table.second_starts for table in self.tables])

    def tokens(self) -> list[npt.NDArray[np.int32]]:
        """Return the token ids of every row."""
        return [self.tables[t].tokens(int(r)) for t, r in zip(self.table_of, self.row_of, strict=True)]

    def encoded(self) -> Encoded:
        """Return the rows in the form that a classifier takes."""
        return Encoded(self.tokens(), self.second_starts(), self.full_lengths)

    def hashes(self) -> npt.NDArray[np.uint64]:
        """Return one hash per row, ``(N,)``, equal for rows that are the same to the model.

        Such rows have equal tokens, equal lengths before truncation and equal starts of the second text.
        """
        hashes = np.empty(len(self), dtype=np.uint64)
        for first in range(0, len(self), _HASHED_AT_ONCE):
            chunk = np.arange(first, min(first + _HASHED_AT_ONCE, len(self)))
            hashes[chunk] = _hashes(self[chunk])
        return hashes

    def name_of(self, position: int) -> str:
        """Return the name of a row for messages: the file and the 0-based row."""
        return f"{self.tables[self.table_of[position]].source_name} row {self.row_of[position]}"

    def names_of(self, positions: Index, limit: int = 8) -> str:
        """Return `name_of` the first ``limit`` rows, separated by commas, and the number of others."""
        rest = len(positions) - limit
        named = ", ".join(self.name_of(int(position)) for position in positions[:limit])
        return named + (f" and {rest:,} more" if rest > 0 else "")

    def _gather(self, columns: list[npt.NDArray[np.int32]]) -> npt.NDArray[np.int32]:
        gathered = np.empty(len(self), dtype=np.int32)
        for i, column in enumerate(columns):
            chosen = self.table_of == i
            gathered[chosen] = column[self.row_of[chosen]]
        return gathered


_HASHED_AT_ONCE = 1 << 16
"""Number of rows whose tokens are copied at once."""


def _hashes(rows: LabelledRows) -> npt.NDArray[np.uint64]:
    """Return hashes ``(N,)`` of rows: the sum of numbers times random odd weights by position, modulo 2^64.

    Two different rows have the same hash with a probability below 2^-45.
    """
    lengths = rows.lengths.astype(np.int64)
    first = np.cumsum(lengths) - lengths
    weights = np.random.default_rng(0).integers(0, 1 << 63, 2 + int(lengths.max()), np.uint64) * 2 + 1
    place = np.arange(int(lengths.sum())) - np.repeat(first, lengths)
    terms = np.concatenate(rows.tokens()).astype(np.uint64) * weights[place + 2]
    sums: npt.NDArray[np.uint64] = np.add.reduceat(terms, first)
    sums += rows.full_lengths.astype(np.uint64) * weights[0]
    sums += rows.second_starts().astype(np.uint64) * weights[1]
    return sums


@lru_cache(maxsize=2)
def shuffled(num_rows: int, *, seed: int, epoch: int) -> Index:
    """Return the order of the rows in one epoch.

    The permutation depends only on seed and epoch, so that a resumed run needs no stored state to continue.
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_rows).astype(np.int64)
    order.flags.writeable = False  # shared by all steps of the epoch
    return order


MAX_BATCH_TOKENS = 4096
"""Largest number of tokens in a batch without gradients; larger batches exceed CPU caches and take more memory."""


def by_length(
    lengths: npt.NDArray[np.int32], batch_size: int, max_tokens: int = MAX_BATCH_TOKENS
) -> Iterator[Index]:
    """Yield positions in batches of similar length, with at most ``batch_size`` texts and ``max_tokens`` tokens.

    The longest texts come first, so that memory does not grow later. A text longer than ``max_tokens`` is a batch of
    its own.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    first = 0
    while first < len(order):
        longest = max(1, int(lengths[order[first]]))
        count = min(batch_size, max(1, max_tokens // longest))
        yield order[first : first + count]
        first += count


def evenly(lengths: npt.NDArray[np.int32], batch_size: int) -> Iterator[Index]:
    """Yield positions in batches with about equal numbers of texts and tokens, mixing long and short texts.

    A batch has at most ``batch_size`` texts and about `MAX_BATCH_TOKENS` tokens. Batches of the same shape avoid
    compiling kernels for other shapes (`packing.plan`).
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    count = max(math.ceil(len(order) / batch_size), math.ceil(int(lengths.sum()) / MAX_BATCH_TOKENS))
    count = min(count, len(order))  # a longer text is a batch of its own
    deal, place = np.divmod(np.arange(len(order)), max(1, count))
    batch = np.where(
        deal % 2, count - 1 - place, place
    )  # alternate the direction so that no batch always gets the longest text
    for i in range(count):
        yield order[batch == i]
