"""Rows that may have any number of labels: which are held out, and when two have the same labels.

N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from leantune.data.label_column import SEPARATOR
from leantune.errors import UsageError
from leantune.system.messages import shown

IntArray = npt.NDArray[np.int64]


def numbered(label_ids: IntArray) -> IntArray:
    """``(N,)`` one number a row, the same for rows with the same labels: the class id ``(N,)`` as it is, or the place
    of the row's labels ``(N, C)`` among all that occur.

    >>> numbered(np.array([[1, 0], [0, 0], [1, 0]])).tolist()
    [1, 0, 1]
    """
    if label_ids.ndim == 1:
        return label_ids
    _, numbers = np.unique(label_ids, axis=0, return_inverse=True)
    return np.asarray(numbers, dtype=np.int64).reshape(-1)


def joined(names: Sequence[str], has_each: npt.NDArray[np.generic]) -> str:
    """The names of a row's labels ``(C,)`` as one text, in the order of the classes; empty without any."""
    return SEPARATOR.join(names[i] for i in np.flatnonzero(has_each).tolist())


def named(names: Sequence[str], own: npt.NDArray[np.generic] | np.integer[Any]) -> str:
    """What a row is labelled, as one text: of a class id its name, of ones and zeros ``(C,)`` see `joined`."""
    return joined(names, own) if isinstance(own, np.ndarray) else names[int(own)]


def check_joinable(names: Sequence[str]) -> None:
    """Refuse names that could not be told apart once they are joined.

    Raises:
        UsageError: naming one.
    """
    unclear = next((name for name in names if SEPARATOR in name), None)
    if unclear is not None:
        raise UsageError(
            f"the label {shown(unclear)} holds {SEPARATOR!r}, which stands between labels in one text: write .jsonl or "
            ".parquet, where they are lists"
        )


def require_one_label(is_multi_label: bool, what: str) -> None:
    """Refuse several labels a text where nothing says what would be meant.

    Args:
        is_multi_label: whether a text may have several.
        what: is refused, for the message.

    Raises:
        UsageError: if so.
    """
    if is_multi_label:
        raise UsageError(f"{what} is only for one label per text, and here a text may have several")


def counts_of(label_ids: IntArray, num_classes: int) -> IntArray:
    """``(C,)`` rows with each class, of class ids ``(N,)`` or of labels ``(N, C)``."""
    if label_ids.ndim == 1:
        return np.bincount(label_ids, minlength=num_classes)
    return np.asarray(label_ids.sum(axis=0))


def iterative_holdout(labels: IntArray, num_held_out: int, seed: int) -> tuple[IntArray, IntArray]:
    """Split rows into those to train on and those held out, each class as nearly in proportion as its rows allow.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011, On the Stratification of Multi-Label Data,
    algorithm 1): of the class with fewest rows left each row goes to the side that lacks the class most; a tie goes to
    the side that lacks rows most, then to training. Rows without labels come last.

    Args:
        labels: ``(N, C)`` of ones and zeros.
        num_held_out: rows to hold out.
        seed: of the order in which rows are looked at.

    Returns:
        Row numbers to train on and row numbers held out, both sorted; together every row once.
    """
    num_rows = len(labels)
    order = np.random.default_rng(seed).permutation(num_rows)
    shares = np.array([num_rows - num_held_out, num_held_out]) / max(num_rows, 1)
    wanted = shares[:, None] * labels.sum(axis=0)  # (2, C) rows of each class that a side lacks
    room = np.array([num_rows - num_held_out, num_held_out])
    side_of = np.full(num_rows, -1)

    def put(row: int, sides: IntArray) -> None:
        side = int(sides[np.argmax(room[sides])])
        side_of[row] = side
        room[side] -= 1
        wanted[side] -= labels[row]

    left = labels.sum(axis=0)
    while left.any():
        rarest = int(np.where(left > 0, left, num_rows + 1).argmin())
        for row in order[(labels[order, rarest] == 1) & (side_of[order] < 0)].tolist():
            has_room = np.flatnonzero(room > 0)
            lack = wanted[has_room, rarest]
            put(row, has_room[np.isclose(lack, lack.max())])
            left -= labels[row]
    for row in order[side_of[order] < 0].tolist():
        put(row, np.flatnonzero(room > 0))
    return np.flatnonzero(side_of == 0), np.flatnonzero(side_of == 1)
