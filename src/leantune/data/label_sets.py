"""Functions for multi-label rows: grouping, naming, counting and holding out.

Shapes: N rows, C classes.
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
    """Return one number per row, ``(N,)``, equal for rows with the same labels.

    Class ids ``(N,)`` are returned as they are. Label rows ``(N, C)`` are numbered by their distinct combinations.

    >>> numbered(np.array([[1, 0], [0, 0], [1, 0]])).tolist()
    [1, 0, 1]
    """
    if label_ids.ndim == 1:
        return label_ids
    _, numbers = np.unique(label_ids, axis=0, return_inverse=True)
    return np.asarray(numbers, dtype=np.int64).reshape(-1)


def joined(names: Sequence[str], has_each: npt.NDArray[np.generic]) -> str:
    """Join the names of a row's labels ``(C,)`` in class order; a row without labels gives an empty text."""
    return SEPARATOR.join(names[i] for i in np.flatnonzero(has_each).tolist())


def named(names: Sequence[str], own: npt.NDArray[np.generic] | np.integer[Any]) -> str:
    """Return a row's labels as one text: the name of a class id, or `joined` names for ones and zeros ``(C,)``."""
    return joined(names, own) if isinstance(own, np.ndarray) else names[int(own)]


def check_joinable(names: Sequence[str]) -> None:
    """Refuse class names that contain the separator, since joined labels would be ambiguous.

    Raises:
        UsageError: a name contains the separator.
    """
    unclear = next((name for name in names if SEPARATOR in name), None)
    if unclear is not None:
        raise UsageError(
            f"the label {shown(unclear)} contains {SEPARATOR!r}, which separates labels in a text: write .jsonl or "
            ".parquet, where labels are lists"
        )


def require_one_label(is_multi_label: bool, what: str) -> None:
    """Refuse a feature that is not defined for multi-label classifiers.

    Args:
        is_multi_label: whether a text may have several labels.
        what: the feature, for the message.

    Raises:
        UsageError: a text may have several labels.
    """
    if is_multi_label:
        raise UsageError(f"{what} is only for one label per text, and here a text may have several")


def counts_of(label_ids: IntArray, num_classes: int) -> IntArray:
    """Return the number of rows with each class, ``(C,)``, from class ids ``(N,)`` or labels ``(N, C)``."""
    if label_ids.ndim == 1:
        return np.bincount(label_ids, minlength=num_classes)
    return np.asarray(label_ids.sum(axis=0))


def iterative_holdout(labels: IntArray, num_held_out: int, seed: int) -> tuple[IntArray, IntArray]:
    """Split rows into training and held-out rows, keeping each class as close to its proportion as possible.

    This is iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011, On the Stratification of Multi-Label
    Data, algorithm 1). It repeatedly takes the class with the fewest rows left and puts each of its rows on the side
    that needs the class most. Ties go to the side that needs more rows, then to training. Rows without labels are
    assigned last.

    Args:
        labels: ``(N, C)`` of ones and zeros.
        num_held_out: number of rows to hold out.
        seed: seed for the order in which rows are assigned.

    Returns:
        The sorted row numbers for training and the sorted held-out row numbers; every row is in exactly one.
    """
    num_rows = len(labels)
    order = np.random.default_rng(seed).permutation(num_rows)
    shares = np.array([num_rows - num_held_out, num_held_out]) / max(num_rows, 1)
    wanted = shares[:, None] * labels.sum(axis=0)  # (2, C) rows of each class that a side still needs
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
