"""Stratified splits that hold rows out for validation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from leantune.data.label_sets import iterative_holdout, numbered
from leantune.errors import DataError, UsageError
from leantune.system.messages import shown

IntArray = npt.NDArray[np.int64]

SHARE = 0.1
"""Default share of the rows to hold out."""
FEWEST = 20
FEWEST_OF_A_CLASS = 2
"""Smallest useful validation set: with fewer rows in total or per class, nothing is held out automatically."""


def automatic_size(label_ids: IntArray) -> int:
    """Return the number of rows to hold out of ``label_ids``, ``(N,)`` or ``(N, C)``, by default.

    This is a tenth of the rows, or 0 if that is fewer than `FEWEST` or than `FEWEST_OF_A_CLASS` per class.
    """
    size = _num_held_out(SHARE, len(label_ids))
    num_classes = len(np.unique(label_ids)) if label_ids.ndim == 1 else int(label_ids.any(axis=0).sum())
    least = max(FEWEST, FEWEST_OF_A_CLASS * num_classes)
    return size if size >= least else 0


def stratified_holdout(label_ids: IntArray, size: int | float, seed: int) -> tuple[IntArray, IntArray]:
    """Split rows into training and held-out rows. The only row of a class is always used for training.

    Args:
        label_ids: class ids (N,), or ones and zeros (N, C), which are split with `iterative_holdout`.
        size: number of rows to hold out (0 for none), or a share between 0 and 1 (rounded up).
        seed: the same seed gives the same rows.

    Returns:
        The sorted row numbers for training and the sorted held-out row numbers; every row is in exactly one.

    Raises:
        UsageError: the size is not a count or a share, or leaves either side fewer rows than classes. For multi-label
            rows: it leaves no row to train on.
        DataError: there are more classes than half of the rows.
    """
    num_rows = len(label_ids)
    num_held_out = _num_held_out(size, num_rows)
    if label_ids.ndim == 2:
        if not 0 <= num_held_out < num_rows:
            raise UsageError(
                f"the held-out size {size} means {num_held_out} of {num_rows} rows, which leaves none to "
                "train on: choose a smaller size"
            )
        return iterative_holdout(label_ids, num_held_out, seed)
    classes, counts = np.unique(label_ids, return_counts=True)
    if 2 * len(classes) > num_rows:
        raise DataError(
            f"{len(classes)} classes in {num_rows} rows, expected at least two rows per class to hold one out: check "
            "that this is the label column; otherwise add rows, or give a validation file"
        )
    every_row = np.arange(num_rows, dtype=np.int64)
    if num_held_out == 0:
        return every_row, every_row[:0]
    from sklearn.model_selection import train_test_split  # imported here because most commands do not need it

    is_alone = np.isin(label_ids, classes[counts == 1])
    _check_size(size, num_held_out, num_rows - int(is_alone.sum()), int((counts > 1).sum()))
    train, held_out = train_test_split(
        every_row[~is_alone], test_size=num_held_out, stratify=label_ids[~is_alone], random_state=seed
    )
    train, held_out = _with_every_class(np.append(train, every_row[is_alone]), held_out, label_ids)
    return np.sort(train), np.sort(held_out)


def _with_every_class(train: IntArray, held_out: IntArray, label_ids: IntArray) -> tuple[IntArray, IntArray]:
    """Swap held-out rows into training for classes that rounding left without training rows.

    Each swapped row replaces a row of the largest training class.
    """
    train, held_out = train.copy(), held_out.copy()
    for absent in np.setdiff1d(label_ids, label_ids[train]):
        most = np.bincount(label_ids[train]).argmax()
        here, there = (label_ids[train] == most).argmax(), (label_ids[held_out] == absent).argmax()
        train[here], held_out[there] = held_out[there], train[here]
    return train, held_out


def _num_held_out(size: int | float, num_rows: int) -> int:
    if isinstance(size, bool) or not isinstance(size, (int, float)):
        raise UsageError(f"the held-out size must be a count or a share. Got {shown(size)} instead.")
    if isinstance(size, int):
        return size
    if not 0 < size < 1:
        raise UsageError(f"the held-out share must be between 0 and 1. Got {size} instead.")
    return int(np.ceil(size * num_rows))


def _check_size(size: int | float, num_held_out: int, num_rows: int, num_classes: int) -> None:
    most = num_rows - num_classes
    if not num_classes <= num_held_out <= most:
        raise UsageError(
            f"the held-out size {size} means {num_held_out} of {num_rows} rows, expected {num_classes} to "
            f"{most} so that all {num_classes} classes can be on both sides: choose another size"
        )


def nested_order(label_ids: IntArray, *, seed: int) -> IntArray:
    """Return an order ``(N,)`` of the rows in which every prefix contains each class in proportion.

    Args:
        label_ids: ``(N,)`` or ``(N, C)``.
        seed: seed for the order within each class.
    """
    rng = np.random.default_rng([seed, 0x1EA2])
    place = np.empty(len(label_ids))
    labels = numbered(label_ids)
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        place[own] = (np.arange(len(own)) + rng.random()) / len(own)
    order: IntArray = np.argsort(place, kind="stable")
    return order
