"""Class names keep their ids."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leantune.config.record.run import Labels
from leantune.data.labels import LabelMap
from leantune.errors import CheckpointError, DataError


def test_names_are_sorted_as_text_or_as_numbers() -> None:
    assert LabelMap.of(["b", "a", "b", "10"]).names == ("10", "a", "b")
    assert LabelMap.of(["10", "9", "-1", "10"]).names == ("-1", "9", "10")
    assert LabelMap.of(["10", "9", "007"]).names == ("007", "10", "9")


def test_a_given_order_is_kept_with_classes_that_no_row_has() -> None:
    assert LabelMap.of(["pos", "neg"], order=("pos", "neutral", "neg")).names == ("pos", "neutral", "neg")
    with pytest.raises(DataError, match=r"^a.csv: labels 'bad', expected 'pos', 'neg'$"):
        LabelMap.of(["pos", "bad"], order=("pos", "neg"), source_name="a.csv")


@given(st.lists(st.text("abcxyz0123é語", min_size=1), min_size=2, unique=True), st.randoms())
def test_row_order_never_changes_ids(labels: list[str], shuffler: random.Random) -> None:
    shuffled = labels * 2
    shuffler.shuffle(shuffled)
    assert LabelMap.of(shuffled) == LabelMap.of(labels)


@pytest.mark.parametrize("values", [[], ["a"], ["a", "a"]])
def test_one_class_is_no_classification(values: list[str]) -> None:
    with pytest.raises(
        DataError, match=r"class in the labels .* expected two or more: check the label column"
    ):
        LabelMap.of(values)


def test_is_integer() -> None:
    assert LabelMap(("0", "-3", "12")).is_integer
    assert not LabelMap(("0", "007")).is_integer
    assert not LabelMap(("0", "a")).is_integer


def test_encode() -> None:
    ids = LabelMap(("neg", "pos")).encode(["pos", "neg", "pos"], "a.csv")
    assert ids.dtype == np.int64
    assert ids.tolist() == [1, 0, 1]


def test_an_unknown_label_is_named_with_its_row_and_the_nearest_class() -> None:
    with pytest.raises(DataError) as caught:
        LabelMap(("neg", "pos")).encode(
            ["pos", "Pos"], "a.csv", rows=[10, 11], column="gold", locate=lambda index: 2 * index
        )
    assert str(caught.value) == (
        "a.csv:22:gold: the label 'Pos' is no class of this model, which knows 'neg', 'pos'; "
        "did you mean 'pos'?"
    )


def test_maps_for_transformers() -> None:
    label_map = LabelMap(("neg", "pos"))
    assert label_map.id2label == {0: "neg", 1: "pos"}
    assert label_map.label2id == {"neg": 0, "pos": 1}


def test_record_round_trip_and_hash() -> None:
    label_map = LabelMap(("ä", "b"))
    assert LabelMap.of_record(label_map.to_record()) == label_map
    assert label_map.sha256 != LabelMap(("b", "ä")).sha256


@pytest.mark.parametrize("names", [[], ["a"], ["a", "a"], ["a", "b"]])
def test_a_damaged_map_is_refused(names: list[str]) -> None:
    with pytest.raises(CheckpointError, match=r"^label map: "):
        LabelMap.of_record(Labels(names=names, sha256=""))
