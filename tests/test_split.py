"""Held-out rows are stratified, repeatable and complete."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leantune.data.split import automatic_size, stratified_holdout
from leantune.errors import DataError, LeantuneError, UsageError


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.one_of(st.integers(-1, 61), st.floats(-0.5, 1.5)),
    st.integers(0, 9),
)
def test_every_row_is_on_one_side(labels: list[int], size: int | float, seed: int) -> None:
    label_ids = np.array(labels, dtype=np.int64)
    try:
        train, held_out = stratified_holdout(label_ids, size, seed)
    except LeantuneError:
        return
    assert np.array_equal(np.sort(np.concatenate([train, held_out])), np.arange(len(labels)))
    assert np.array_equal(train, np.sort(train))
    assert np.array_equal(held_out, np.sort(held_out))
    assert np.array_equal(np.unique(label_ids[train]), np.unique(label_ids))
    again = stratified_holdout(label_ids, size, seed)
    assert np.array_equal(train, again[0])


def test_classes_keep_their_shares() -> None:
    label_ids = np.repeat(np.array([0, 1, 2], dtype=np.int64), [600, 300, 100])
    _, held_out = stratified_holdout(label_ids, 0.1, seed=0)
    assert np.bincount(label_ids[held_out]).tolist() == [60, 30, 10]
    assert len(stratified_holdout(label_ids, 37, seed=0)[1]) == 37


def test_the_seed_chooses_the_rows() -> None:
    label_ids = np.arange(100, dtype=np.int64) % 2
    assert not np.array_equal(
        stratified_holdout(label_ids, 10, 0)[1], stratified_holdout(label_ids, 10, 1)[1]
    )


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0.0, "the held-out share must be between 0 and 1. Got 0.0 instead."),
        (float("nan"), "the held-out share must be between 0 and 1. Got nan instead."),
        (True, "the held-out size must be a count or a share. Got True instead."),
        (
            9,
            "the held-out size 9 means 9 of 10 rows, expected 2 to 8 so that all 2 classes can be on both "
            "sides: choose another size",
        ),
        (
            0.1,
            "the held-out size 0.1 means 1 of 10 rows, expected 2 to 8 so that all 2 classes can be on both "
            "sides: choose another size",
        ),
    ],
)
def test_impossible_sizes(size: float, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        stratified_holdout(np.arange(10, dtype=np.int64) % 2, size, 0)


def test_a_class_with_one_row_is_trained_on() -> None:
    label_ids = np.array([0, 0, 0, 0, 1, 2, 2], dtype=np.int64)
    train, held_out = stratified_holdout(label_ids, 3, 0)
    assert 4 in train
    assert len(held_out) == 3


def test_nothing_is_held_out_where_it_would_measure_nothing() -> None:
    for rows_of_a_class, num_classes, expected in (
        (8, 4, 0),
        (64, 4, 26),
        (8, 64, 0),
        (60, 64, 384),
        (90, 2, 0),
    ):
        label_ids = np.repeat(np.arange(num_classes, dtype=np.int64), rows_of_a_class)
        assert automatic_size(label_ids) == expected
        if expected == 0:
            train, held_out = stratified_holdout(label_ids, 0, seed=0)
            assert len(train) == len(label_ids)
            assert not len(held_out)


def test_labels_that_are_nearly_all_different_are_doubted() -> None:
    with pytest.raises(DataError, match=r"^9 classes in 10 rows, .* check that this is the label column"):
        stratified_holdout(np.array([*range(9), 0], dtype=np.int64), 0.1, 0)
