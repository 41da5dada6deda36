"""Labels keep their type from the rows of a Python program to its predictions, and errors name rows of that program."""

from __future__ import annotations

import json
import shutil

import datasets
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score

import leantune
from leantune.errors import CheckpointError, DataError
from leantune.estimator import LeanTextClassifier
from tiny import WORDS

KEYS = {
    "max_trainable_params": 5000,
    "epochs": 4,
    "learning_rate": 1e-2,
    "max_length": 32,
    "precision": "fp32",
}


def texts_and_ids(count: int = 160) -> tuple[list[str], np.ndarray]:
    """Texts of one of two groups of words."""
    generator = np.random.default_rng(0)
    ids = np.arange(count) % 2
    return [" ".join(generator.choice(WORDS[8 * i : 8 * (i + 1)], 6)) for i in ids], ids


TEXTS, IDS = texts_and_ids()
LABELS = {
    "numpy int": (IDS, (0, 1), int),
    "numpy bool": (IDS == 1, (False, True), bool),
    "series of categories": (pd.Series(IDS + 3, dtype="category"), (3, 4), int),
    "floats": ((IDS * 2.0).tolist(), (0, 2), int),
    "numpy str": (np.array(["no", "yes"])[IDS], ("no", "yes"), str),
}


@pytest.fixture(scope="module")
def keys(inputs):
    return {**KEYS, "model": inputs / "encoder", "quiet": True}


@pytest.mark.parametrize("kind", LABELS)
def test_predictions_have_the_type_of_the_labels(keys, kind):
    labels, classes, expected = LABELS[kind]
    classifier = leantune.train((TEXTS, labels), **keys)
    assert classifier.classes == classes
    assert all(type(each) is expected for each in classifier.classes)
    predicted = classifier.predict(TEXTS)
    assert (predicted == np.asarray(labels)).mean() == accuracy_score(labels, predicted) > 0.8
    assert classifier.evaluate(TEXTS, labels).accuracy == accuracy_score(labels, predicted)
    assert type(classifier.predict(TEXTS[0])) is expected


def test_the_type_is_kept_with_the_weights(keys, tmp_path, capsys):
    classifier = leantune.train((TEXTS, IDS == 1), output=tmp_path / "run", **keys)
    shutil.copytree(tmp_path / "run" / "merged", tmp_path / "merged")
    shutil.copytree(tmp_path / "run" / "adapter", tmp_path / "adapter")
    for folder in (tmp_path / "run", tmp_path / "merged", tmp_path / "adapter"):
        assert leantune.load(folder).predict(TEXTS[:4]) == classifier.predict(TEXTS[:4]) == [False, True] * 2
    about = tmp_path / "merged" / "leantune.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"label_type": "int"}))
    with pytest.raises(CheckpointError, match="labels must be of type int"):
        leantune.load(tmp_path / "merged")


def test_several_labels_keep_their_type(keys):
    labels = [[0, 2] if i else [1] for i in IDS]
    classifier = leantune.train((TEXTS, labels), **keys)
    assert classifier.classes == (0, 1, 2)
    assert sum(found == wanted for found, wanted in zip(classifier.predict(TEXTS), labels, strict=True)) > 120


def test_a_run_of_the_estimator_predicts_what_the_estimator_does(inputs):
    settings = {name: value for name, value in KEYS.items() if name != "max_trainable_params"}
    estimator = LeanTextClassifier(str(inputs / "encoder"), max_trainable_params=5000, recipe=settings)
    predicted = estimator.fit(TEXTS, IDS).predict(TEXTS)
    assert predicted.dtype == IDS.dtype
    assert leantune.load(estimator.run_).predict(TEXTS) == predicted.tolist()


def test_labels_of_a_csv_file_are_texts_and_those_of_typed_files_are_not(keys, tmp_path):
    table = pd.DataFrame({"text": TEXTS, "label": IDS})
    table.to_csv(tmp_path / "rows.csv", index=False)
    table.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    table.to_parquet(tmp_path / "rows.parquet")
    keys = {**keys, "epochs": 1}
    found = [
        leantune.train(tmp_path / f"rows.{kind}", **keys).classes for kind in ("csv", "jsonl", "parquet")
    ]
    assert found == [("0", "1"), (0, 1), (0, 1)]


FORMS = {
    "tuple": lambda texts, ids: (texts, ids),
    "series": lambda texts, ids: (pd.Series(texts), pd.Series(ids)),
    "pairs": lambda texts, ids: list(zip(texts, ids.tolist(), strict=True)),
    "dict of lists": lambda texts, ids: {"text": texts, "label": ids, "other": object()},
    "list of dicts": lambda texts, ids: [
        {"text": text, "label": each, "other": object()} for text, each in zip(texts, ids, strict=True)
    ],
    "frame": lambda texts, ids: pd.DataFrame({"text": texts, "label": ids}, index=range(100, 100 + len(ids))),
    "dataset": lambda texts, ids: datasets.Dataset.from_dict({"text": texts, "label": ids}),
}


@pytest.fixture(scope="module")
def expected(keys):
    """Probabilities of a classifier that was trained on texts and labels."""
    return leantune.train((TEXTS, IDS), **keys | {"epochs": 1}).predict_proba(TEXTS)


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_every_form_are_the_same_rows(keys, expected, form):
    keys = {**keys, "epochs": 1}
    found = leantune.train(FORMS[form](TEXTS, IDS), **keys).predict_proba(TEXTS)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            (["a b", " ", "c", ""] * 5, [0, 0, 1, 1] * 5),
            r"data, row 1 \(counted from 0\):text: 10 blank texts.* Rows: 1, 3, 5",
        ),
        (FORMS["frame"](TEXTS, [*IDS[:-1], -1]).replace(-1, np.nan), r"data, row 159 .*:label: no label"),
        ([("a", "x"), ("b", 1.5)], r"data, row 1 \(counted from 0\):label: the label 1.5 is"),
        ([{"text": "a", "label": 0}, {"text": "b"}], r"data, row 1 .*expected a dict with text, label"),
        (([*TEXTS, 3], [*IDS, 0]), r"data: text 160 \(counted from 0\) is a number"),
        ({"text": ["a"], "label": [0, 1]}, "data: 1 texts and 2 labels, lengths must match"),
        ([("a", object()), ("b", 0)], r"data, row 0 .* holds a value that is no text"),
        ([1, 2], "data: a list, expected a path"),
    ],
    ids=["blank", "no label", "half", "no key", "no text", "lengths", "object", "numbers"],
)
def test_errors_name_the_rows_of_the_caller(keys, tmp_path, data, message):
    with pytest.raises((DataError, leantune.errors.UsageError), match=message) as raised:
        leantune.train(data, output=tmp_path / "run", **keys)
    assert "rows-" not in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "names", [("encoder", "budget"), ("model", "max_trainable_params"), ("model", "budget")]
)
def test_short_names_of_keys_are_understood(inputs, names):
    given = dict(zip(names, (inputs / "encoder", 5000), strict=True))
    plan = leantune.plan(inputs / "train.csv", **given, lr=1e-3)
    assert (plan.recipe.max_trainable_params, plan.recipe.learning_rate) == (5000, 1e-3)


def test_two_names_of_one_key_are_refused(inputs):
    with pytest.raises(leantune.errors.UsageError, match="encoder and model are spellings of one key"):
        leantune.plan(inputs / "train.csv", model=inputs / "encoder", encoder="other")
