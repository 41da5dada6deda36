"""Rows with any number of labels: how they are read, split, and measured."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, hamming_loss, label_ranking_average_precision_score

from leantune.config import Recipe
from leantune.data.label_sets import iterative_holdout, joined, numbered
from leantune.data.labels import LabelMap
from leantune.data.split import automatic_size, stratified_holdout
from leantune.data.text.read import Columns, open_examples
from leantune.errors import CheckpointError, DataError, UsageError
from leantune.evaluation.multi_label_metrics import evaluate_label_sets, ranking_precisions
from leantune.evaluation.thresholds import LEAST_POSITIVES, best_threshold, choose_thresholds, thresholds_of
from leantune.training.before.one_against_rest import fit_one_against_rest, logistic_regressions
from leantune.training.objectives import MOST_WEIGHT, SeveralLabels

NAME = st.text("abcxyz |é", min_size=1, max_size=4).filter(lambda name: name == name.strip())
WHOLE_NAME = NAME.filter(lambda name: "|" not in name)


def labels_of(path: Path, *, splits: bool = False) -> list[str | tuple[str, ...]]:
    found = open_examples(str(path), Columns(splits_labels=splits), labels="required").labels()
    assert found is not None
    return found


def write_csv(path: Path, labels: list[str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *(["some words", label] for label in labels)])
    return path


def write_lines(path: Path, labels: list[object]) -> Path:
    path.write_text(
        "".join(json.dumps({"text": "words", "label": label}) + "\n" for label in labels), "utf-8"
    )
    return path


@settings(deadline=None)
@given(st.lists(st.lists(WHOLE_NAME, unique=True, max_size=4), min_size=1, max_size=6))
def test_joined_labels_are_read_as_they_were(tmp_path_factory, rows: list[list[str]]) -> None:
    path = write_csv(tmp_path_factory.mktemp("rows") / "rows.csv", ["|".join(row) for row in rows])
    assert labels_of(path, splits=True) == [tuple(row) for row in rows]


@settings(deadline=None)
@given(st.lists(st.lists(NAME, max_size=4), min_size=1, max_size=6))
def test_lists_of_labels_are_read_from_json_and_parquet_alike(
    tmp_path_factory, rows: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    expected = [tuple(dict.fromkeys(row)) for row in rows]
    assert labels_of(write_lines(folder / "rows.jsonl", rows)) == expected
    table = pa.table({"text": ["words"] * len(rows), "label": pa.array(rows, pa.list_(pa.string()))})
    pq.write_table(table, folder / "rows.parquet")
    assert labels_of(folder / "rows.parquet") == expected


def test_a_class_may_hold_the_separator_where_nothing_is_split(tmp_path) -> None:
    assert labels_of(write_csv(tmp_path / "rows.csv", ["a|b", "c"])) == ["a|b", "c"]


def test_numbers_of_a_list_of_class_labels_are_their_names(tmp_path) -> None:
    from datasets import ClassLabel, Dataset, Features, Sequence, Value

    features = Features(
        {"text": Value("string"), "label": Sequence(ClassLabel(names=["oil", "grain", "gold"]))}
    )
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": [[0, 2], [], [1]]}, features=features)
    rows.to_parquet(tmp_path / "rows.parquet")
    rows.save_to_disk(tmp_path / "saved")
    source = open_examples(str(tmp_path / "rows.parquet"), Columns(), labels="required")
    assert source.label_names == ("oil", "grain", "gold")
    for path in (tmp_path / "rows.parquet", tmp_path / "saved"):
        assert labels_of(path) == [("oil", "gold"), (), ("grain",)]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["a"], "b"], "a text ('b'), expected a list of labels as in the rows before"),
        ([["a"], None], "no labels, expected a list of labels as in the rows before"),
        ([["a", ""]], "no label, expected a class"),
        ([["a"], [1]], "write all labels in one way"),
        ([["a"], [["b"]]], "a list, expected a label as a text or a whole number"),
    ],
)
def test_a_bad_list_is_refused_with_its_row(tmp_path, labels, message) -> None:
    with pytest.raises(DataError) as caught:
        labels_of(write_lines(tmp_path / "rows.jsonl", labels))
    assert message in str(caught.value)
    assert f"rows.jsonl:{len(labels)}:label: " in str(caught.value)


def test_labels_become_ones_and_zeros() -> None:
    labels = LabelMap.of([("b", "a"), (), ("c",)])
    assert labels == LabelMap(("a", "b", "c"), is_multi_label=True)
    assert labels.encode([("b", "a"), (), ("c",)], "rows").tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert LabelMap.of_record(labels.to_record()) == labels
    with pytest.raises(DataError, match="the label 'd' is no class of this model"):
        labels.encode([("a", "d")], "rows")
    with pytest.raises(DataError, match=r"one label, expected a list of labels: .*problem_type=multi_label"):
        labels.encode(["a"], "rows")
    with pytest.raises(DataError, match="a list of labels, expected one"):
        LabelMap(("a", "b")).encode([("a",)], "rows")


def test_many_numbers_that_are_not_whole_are_no_classes() -> None:
    measured = [f"{number / 7:.2f}" for number in range(40)]
    with pytest.raises(
        DataError, match=r"40 different numbers \(.*\): leantune trains classifiers; put the numbers"
    ):
        LabelMap.of(measured)
    assert len(LabelMap.of(["3.10", "3.11", "3.9"]).names) == 3  # versions
    assert len(LabelMap.of([str(number) for number in range(40)]).names) == 40


@pytest.mark.parametrize("word", ["regression", "ordinal", "Ordinal-Regression"])
def test_numeric_targets_are_refused_with_a_sentence(word) -> None:
    with pytest.raises(
        UsageError, match=rf"problem_type={word}: leantune trains classifiers; put the numbers into"
    ):
        Recipe(data="rows.csv", model="encoder", problem_type=word)
    with pytest.raises(UsageError, match="problem_type must be single_label_classification or multi_label"):
        Recipe(data="rows.csv", model="encoder", problem_type="token_classification")


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 120), st.floats(0.1, 0.5))
def test_every_row_is_on_one_side_and_classes_are_in_proportion(seed, num_rows, share) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random((num_rows, 4)) < [0.5, 0.3, 0.2, 0.1]).astype(np.int64)
    held = int(share * num_rows)
    train, held_out = iterative_holdout(labels, held, seed)
    assert len(held_out) == held
    assert sorted([*train, *held_out]) == list(range(num_rows))
    again = iterative_holdout(labels, held, seed)
    assert all(np.array_equal(a, b) for a, b in zip((train, held_out), again, strict=True))
    wanted = labels.sum(axis=0) * held / num_rows
    assert np.abs(labels[held_out].sum(axis=0) - wanted).max() <= 2.5


def test_a_hold_out_of_label_sets_is_as_large_as_of_labels() -> None:
    labels = np.tile(np.eye(3, dtype=np.int64), (100, 1))
    assert automatic_size(labels) == automatic_size(labels.argmax(axis=1)) == 30
    assert len(stratified_holdout(labels, 0.1, seed=0)[1]) == 30
    with pytest.raises(UsageError, match="the held-out size 300 means 300 of 300 rows, which leaves none"):
        stratified_holdout(labels, 300, seed=0)


def test_rows_with_the_same_labels_have_one_number() -> None:
    assert numbered(np.array([2, 0, 2])).tolist() == [2, 0, 2]
    found = numbered(np.array([[1, 0], [0, 1], [1, 0], [1, 1]]))
    assert found[0] == found[2]
    assert len(set(found.tolist())) == 3
    assert joined(("a", "b", "c"), np.array([1, 0, 1])) == "a|c"


EPSILON = np.finfo(np.float64).eps
PAIRS = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed))


@settings(deadline=None)
@given(PAIRS, st.integers(1, 30), st.booleans())
def test_the_threshold_is_the_best_of_all_that_there_are(rng, num_rows, has_ties) -> None:
    probabilities = rng.random(num_rows)
    if has_ties:
        probabilities = probabilities.round(1)
    truth = rng.random(num_rows) < 0.4
    found = best_threshold(probabilities, truth)
    if not truth.any():
        assert found == 0.5
        return
    every = [
        0.0,
        *(a for a in np.sort(probabilities)),
        *((a + b) / 2 for a, b in pairwise(np.sort(probabilities))),
    ]
    reached = f1_score(truth, probabilities >= found, zero_division=0)
    assert reached == pytest.approx(
        max(f1_score(truth, probabilities >= each, zero_division=0) for each in every)
    )


def test_a_class_of_few_rows_has_the_threshold_of_all() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((200, 3), dtype=np.int64)
    labels[:60, 0] = labels[: LEAST_POSITIVES - 1, 1] = labels[:LEAST_POSITIVES, 2] = 1
    probabilities = np.clip(0.5 * labels + 0.6 * rng.random(labels.shape), 0, 1)
    found = choose_thresholds(probabilities, labels)
    shared = best_threshold(probabilities.reshape(-1), labels.reshape(-1) == 1)
    own = [best_threshold(probabilities[:, c], labels[:, c] == 1) for c in range(3)]
    assert found.tolist() == [own[0], shared, own[2]]
    assert choose_thresholds(probabilities, 0 * labels).tolist() == [0.5, 0.5, 0.5]


def test_thresholds_of_other_labels_are_refused() -> None:
    from leantune.config.thresholds_file import Thresholds

    saved = Thresholds(by_label={"a": 0.2, "b": 0.4}, rule="by hand")
    assert thresholds_of(saved, ("b", "a")).tolist() == [0.4, 0.2]
    assert thresholds_of(saved, ("x", "y")).tolist() == [0.2, 0.4]
    assert thresholds_of(None, ("x", "y")).tolist() == [0.5, 0.5]
    with pytest.raises(CheckpointError, match="2 labels, and the classifier has 3"):
        thresholds_of(saved, ("a", "b", "c"))
    with pytest.raises(ValueError, match="from 0 to 1"):
        Thresholds(by_label={"a": 2.0}, rule="")


@settings(deadline=None, max_examples=40)
@given(PAIRS, st.integers(1, 40), st.integers(2, 6), st.booleans())
def test_numbers_are_those_of_scikit_learn(rng, num_rows, num_classes, has_ties) -> None:
    labels = (rng.random((num_rows, num_classes)) < 0.4).astype(np.int64)
    probabilities = rng.random(labels.shape)
    if has_ties:
        probabilities = probabilities.round(1)
    thresholds = rng.random(num_classes)
    predicted = (probabilities >= thresholds).astype(int)
    metrics = evaluate_label_sets(probabilities, labels, [str(i) for i in range(num_classes)], thresholds)
    assert metrics.lrap == pytest.approx(label_ranking_average_precision_score(labels, probabilities))
    assert metrics.micro_f1 == pytest.approx(f1_score(labels, predicted, average="micro", zero_division=0))
    occurs = np.flatnonzero((labels + predicted).any(axis=0))
    if len(occurs):
        macro = [f1_score(labels[:, c], predicted[:, c], zero_division=0) for c in occurs]
        assert metrics.macro_f1 == pytest.approx(np.mean(macro))
    assert metrics.hamming_loss == pytest.approx(hamming_loss(labels, predicted))
    assert metrics.accuracy == pytest.approx((labels == predicted).all(axis=1).mean())
    log_likelihood = labels * np.log(probabilities.clip(EPSILON)) + (1 - labels) * np.log(
        (1 - probabilities).clip(EPSILON)
    )
    assert metrics.log_loss == pytest.approx(-log_likelihood.sum(axis=1).mean(), rel=1e-6, abs=1e-9)
    for rate, interval in (
        (metrics.micro_f1, metrics.micro_f1_interval),
        (metrics.lrap, metrics.lrap_interval),
    ):
        assert interval.low <= rate <= interval.high
    assert set(metrics.to_json()) >= {"micro_f1", "lrap", "hamming_loss"}


def test_a_row_without_labels_ranks_perfectly() -> None:
    found = ranking_precisions(
        np.array([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8]]), np.array([[0, 0], [1, 1], [1, 0]]) == 1
    )
    assert found.tolist() == [1.0, 1.0, 0.5]


def test_one_against_rest_is_what_scikit_learn_fits() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((300, 6))
    labels = (features @ rng.standard_normal((6, 4)) + rng.standard_normal((300, 4)) > 0.5).astype(np.int64)
    labels[:, 3] = 0
    weight, bias = logistic_regressions(features, labels, 0.1)
    for c in range(3):
        expected = LogisticRegression(C=0.1, tol=1e-8, max_iter=1000).fit(features, labels[:, c])
        assert weight[c] == pytest.approx(expected.coef_[0], abs=2e-3)
        assert bias[c] == pytest.approx(expected.intercept_[0], abs=2e-3)
    assert not weight[3].any()
    assert bias[3] < -5
    fitted = fit_one_against_rest(features, labels, (1e-2, 1e-1), np.random.default_rng(1), scale=0.3)
    shares = 1 / (1 + np.exp(-(0.3 * features @ fitted.weight.T + fitted.scaled_bias)))
    assert shares.mean(axis=0) == pytest.approx((labels.sum(axis=0) + 0.5) / 301, abs=1e-6)


def test_the_loss_is_that_of_torch_summed_over_classes() -> None:
    import torch

    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.standard_normal((5, 3)).astype(np.float32))
    labels = torch.from_numpy((rng.random((5, 3)) < 0.5).astype(np.int64))
    mean = torch.nn.BCEWithLogitsLoss()(logits, labels.float())
    task = SeveralLabels()
    assert float(task.loss(logits, labels)) / task.size(labels.numpy(), None) == pytest.approx(
        3 * float(mean)
    )
    weighted = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0]), reduction="sum")
    assert float(task.loss(logits, labels, torch.tensor([1.0, 2.0, 3.0]))) == pytest.approx(
        float(weighted(logits, labels.float()))
    )


def test_balanced_weights_are_capped() -> None:
    from leantune.data.tokens.dataset import LabelledRows

    labels = np.zeros((100, 4), dtype=np.int64)
    labels[:50, 0] = labels[:20, 1] = labels[:2, 2] = 1
    rows = LabelledRows((), np.zeros(100, dtype=np.int64), np.arange(100), labels)
    assert SeveralLabels().balanced(rows, 4).tolist() == [1.0, 4.0, MOST_WEIGHT, 1.0]
