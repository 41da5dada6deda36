"""The scikit-learn face."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from leantune.config import load_recipe
from leantune.errors import DataError, DivergedError, UsageError
from leantune.estimator import LeanTextClassifier
from leantune.system.lock import run_lock
from leantune.training.run import run_training
from tiny import quiet

SETTINGS = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-2, "max_length": 32, "validation_size": 48}


def rows(path) -> tuple[list[str], np.ndarray]:
    with path.open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    return [row["text"] for row in read], np.array(["abc".index(row["label"]) * 10 for row in read])


def test_fit_predict_and_score_follow_scikit_learn(inputs):
    texts, labels = rows(inputs / "train.csv")
    unfitted = LeanTextClassifier(str(inputs / "encoder"), max_trainable_params=4000, recipe=SETTINGS)
    estimator = clone(unfitted).fit(texts, labels)
    assert estimator.classes_.tolist() == [0, 10, 20]
    test_texts, test_labels = rows(inputs / "test.csv")
    probabilities = estimator.predict_proba(test_texts)
    assert probabilities.shape == (60, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert estimator.predict(test_texts).dtype == labels.dtype
    assert estimator.score(test_texts, test_labels) == pytest.approx(
        (estimator.predict(test_texts) == test_labels).mean()
    )
    assert estimator.score(test_texts, test_labels) > 0.6
    assert estimator.record_["parameters"]["initial"] <= 4000
    assert estimator.predict_proba([]).shape == (0, 3)


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_fitted_estimator_predicts_alike_in_another_process(inputs, tmp_path, precision, command):
    texts, labels = rows(inputs / "train.csv")
    estimator = LeanTextClassifier(
        str(inputs / "encoder"), recipe=SETTINGS | {"epochs": 1, "precision": precision}
    )
    estimator.fit(texts, labels)
    joblib.dump(estimator, tmp_path / "estimator.joblib")
    code = "import joblib, sys; print(joblib.load(sys.argv[1]).predict_proba(['word1 word2', 'word30']).tolist())"
    code = f"import torch; torch.set_num_threads({torch.get_num_threads()}); {code}"
    done = command.run(tmp_path / "estimator.joblib", code=code, check=True)
    expected = estimator.predict_proba(["word1 word2", "word30"])
    np.testing.assert_allclose(json.loads(done.stdout), expected, rtol=1e-6)


def test_fitting_again_replaces_its_own_run_and_no_other(inputs, tmp_path):
    texts, labels = rows(inputs / "train.csv")
    output = str(tmp_path / "run")
    settings = {"output": output, "recipe": SETTINGS | {"epochs": 1}}
    estimator = LeanTextClassifier(str(inputs / "encoder"), **settings).fit(texts, labels)
    first = estimator.record_["run_id"]
    assert {"report.html", "README.md"} <= {path.name for path in estimator.run_.iterdir()}
    assert estimator.fit(texts, labels).record_["run_id"] != first
    with pytest.raises(UsageError, match="already holds a run"):
        LeanTextClassifier(str(inputs / "encoder"), **settings).fit(texts, labels)


def test_a_run_that_took_the_place_of_its_own_is_not_replaced(inputs, tmp_path):
    texts, labels = rows(inputs / "train.csv")
    output = tmp_path / "run"
    settings = {"output": str(output), "recipe": SETTINGS | {"epochs": 1}}
    estimator = LeanTextClassifier(str(inputs / "encoder"), **settings).fit(texts, labels)
    shutil.rmtree(output)
    other = LeanTextClassifier(str(inputs / "encoder"), **settings).fit(texts, labels)
    with pytest.raises(UsageError, match="already holds a run of another estimator"):
        estimator.fit(texts, labels)
    assert json.loads((output / "record.json").read_text())["run_id"] == other.record_["run_id"]


def test_a_fit_that_was_begun_and_failed_may_be_repeated(inputs, tmp_path):
    texts, labels = rows(inputs / "train.csv")
    output = tmp_path / "run"
    settings = {"output": str(output), "recipe": SETTINGS | {"epochs": 1}}
    estimator = LeanTextClassifier(str(inputs / "encoder"), **settings)
    estimator.set_params(recipe=settings["recipe"] | {"learning_rate": 1e30, "warmup": 0})
    with pytest.raises(DivergedError):
        estimator.fit(texts, labels)
    assert (output / "record.json").is_file()
    estimator.set_params(recipe=settings["recipe"]).fit(texts, labels)
    assert estimator.record_["status"] == "finished"


def test_rows_of_a_run_that_is_in_progress_stay_when_another_fit_is_refused(inputs, tmp_path):
    texts, labels = rows(inputs / "train.csv")
    output = tmp_path / "run"
    settings = {"output": str(output), "recipe": SETTINGS | {"epochs": 1}}
    first = LeanTextClassifier(str(inputs / "encoder"), **settings).fit(texts, labels)
    (output / "record.json").unlink()  # as before the first step
    for name in ("checkpoints", "adapter", "merged"):
        shutil.rmtree(output / name)
    for name in (
        "recipe.yaml",
        "history.jsonl",
        "train.log",
        "rows_to_check.jsonl",
        "report.html",
        "README.md",
    ):
        (output / name).unlink()
    with run_lock(output), pytest.raises(UsageError, match="is using this folder"):
        LeanTextClassifier(str(inputs / "encoder"), **settings).fit(texts, labels)
    assert Path(first.record_["recipe"]["data"]).is_file()


def test_another_output_leaves_the_rows_of_the_first_run(inputs, tmp_path):
    texts, labels = rows(inputs / "train.csv")
    settings = {"output": str(tmp_path / "a"), "recipe": SETTINGS | {"epochs": 1}}
    estimator = LeanTextClassifier(str(inputs / "encoder"), **settings).fit(texts, labels)
    estimator.set_params(output=str(tmp_path / "b")).fit(texts, labels)
    assert [len(list((tmp_path / name).glob("rows-*"))) for name in "ab"] == [1, 1]


def test_temporary_runs_go_with_the_next_fit_and_with_a_failed_one(inputs, tmp_path, monkeypatch):
    texts, labels = rows(inputs / "train.csv")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    estimator = LeanTextClassifier(str(inputs / "encoder"), recipe=SETTINGS | {"epochs": 1})
    first = estimator.fit(texts, labels).run_
    assert [each.name for each in tmp_path.glob("leantune-*")] == [first.parent.name]
    with pytest.raises(UsageError, match="no such folder"):
        clone(estimator).set_params(model="no/model").fit(texts, labels)
    second = estimator.fit(texts, labels).run_
    assert second != first
    assert [each.name for each in tmp_path.glob("leantune-*")] == [second.parent.name]
    assert estimator.predict(texts[:3]).shape == (3,)


def test_the_generator_of_the_caller_goes_on_as_if_nothing_was_fitted(inputs):
    texts, labels = rows(inputs / "train.csv")
    expected = torch.randn(3, generator=torch.Generator().manual_seed(5))
    torch.manual_seed(5)
    LeanTextClassifier(str(inputs / "encoder"), recipe=SETTINGS | {"epochs": 1}).fit(texts, labels)
    assert torch.equal(torch.randn(3), expected)


def test_an_unfitted_estimator_says_so(inputs):
    with pytest.raises(NotFittedError):
        LeanTextClassifier(str(inputs / "encoder")).predict_proba(["word1"])
    with pytest.raises(NotFittedError):
        LeanTextClassifier(str(inputs / "encoder")).predict(["word1"])


def test_bad_texts_are_data_errors(inputs):
    with pytest.raises(DataError):
        LeanTextClassifier(str(inputs / "encoder"), recipe=SETTINGS).fit(["word1", 7] * 40, ["a", "b"] * 40)


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ("word1", ["a"], "one text, expected a list of texts"),
        (["word1", None], ["a", "b"], "text 1"),
        (["word1", "word2"], ["a", None], "label 1"),
        (["word1", "word2"], [1.0, float("nan")], "label 1"),
        (["word1", "word2"], ["a", " "], "label 1"),
        (["word1", "word2"], ["a", "a"], "1 class in the labels"),
        (["word1", "word2"], ["a"], "2 texts and 1 labels"),
        (["word1", " "], ["a", "b"], "text 1 .* is blank"),
        (
            ["word1", "word2"],
            [["a", "b"], ["b"]],
            "got lists of labels, expected one label per text: use leantune.train",
        ),
        (["word1", "word2"], [["a"], ["b"]], r"labels have shape \(2, 1\), expected one label per text"),
        (["word1", "word2"], pd.Series(["a", pd.NA]), "label 1"),
        (["word1", "word2"], [1.0, 0.5], r"label 1 .* is 0\.5, expected strings or whole numbers"),
        (["word1", "word2"], [b"a", b"b"], "label 0 .* is b'a', expected strings or whole numbers"),
        (["word1", "word2"], np.array(["a", 1], object), "labels have the types int, str"),
        (pd.DataFrame({"text": ["word1"]}), ["a"], "a table, expected a list of texts"),
        ({"word1": "a", "word2": "b"}, ["a", "b"], "a table, expected a list of texts"),
        (np.array([["word1"], ["word2"]]), ["a", "b"], "a table, expected a list of texts"),
    ],
)
def test_what_cannot_be_learnt_from_is_named(inputs, texts, labels, message):
    with pytest.raises(DataError, match=message):
        LeanTextClassifier(str(inputs / "encoder"), recipe=SETTINGS).fit(texts, labels)


def test_a_kept_run_has_its_rows_so_that_its_recipe_runs_again(inputs, tmp_path):
    texts, labels = rows(inputs / "train.csv")
    settings = {"output": str(tmp_path / "run"), "recipe": SETTINGS | {"epochs": 1}}
    estimator = LeanTextClassifier(str(inputs / "encoder"), **settings).fit(texts, labels)
    recipe = load_recipe(estimator.run_ / "recipe.yaml", {"output": str(tmp_path / "again")})
    again = run_training(recipe, console=quiet())
    name = "adapter/adapter_model.safetensors"
    assert (again / name).read_bytes() == (estimator.run_ / name).read_bytes()


def test_rows_stay_with_their_run_and_replace_no_file(inputs, tmp_path):
    texts, labels = rows(inputs / "train.csv")
    output = tmp_path / "run"
    output.mkdir()
    (output / "rows.jsonl").write_text("mine")
    settings = {"output": str(output), "recipe": SETTINGS | {"epochs": 1}}

    def kept() -> list[str]:
        return [path.name for path in output.glob("rows[-.]*")]

    with pytest.raises(UsageError, match="no such folder"):
        LeanTextClassifier("no/model", **settings).fit(texts, labels)
    assert kept() == ["rows.jsonl"]
    estimator = LeanTextClassifier(str(inputs / "encoder"), **settings).fit(texts, labels)
    (first,) = set(kept()) - {"rows.jsonl"}
    with pytest.raises(UsageError, match="no such folder"):
        estimator.set_params(model="no/model").fit(texts[:90], labels[:90])
    assert set(kept()) == {first, "rows.jsonl"}
    estimator.set_params(model=str(inputs / "encoder")).fit(texts[:200], labels[:200])
    (second,) = set(kept()) - {"rows.jsonl"}
    assert second != first
    assert load_recipe(output / "recipe.yaml", {}).data == str(output / second)
    with pytest.raises(UsageError, match="already holds a run of another estimator"):
        LeanTextClassifier(str(inputs / "encoder"), **settings).fit(texts, labels)
    assert set(kept()) == {second, "rows.jsonl"}
    assert (output / "rows.jsonl").read_text() == "mine"


def test_what_an_argument_sets_is_no_recipe_key(inputs):
    recipe = SETTINGS | {"output": "runs/mine", "max_trainable_params": 1000}
    with pytest.raises(UsageError, match="recipe: max_trainable_params, output cannot be set in recipe"):
        LeanTextClassifier(str(inputs / "encoder"), recipe=recipe).fit(["word1", "word2"], ["a", "b"])


def test_an_unknown_key_is_one_of_the_recipe(inputs):
    with pytest.raises(UsageError, match=r"^recipe: unknown key 'epoch' \(did you mean epochs\?\)"):
        LeanTextClassifier(str(inputs / "encoder"), recipe={"epoch": 1}).fit(["word1", "word2"], ["a", "b"])


def test_a_recipe_is_a_mapping(inputs):
    with pytest.raises(UsageError, match=r"expected a mapping of recipe keys\. Got str instead"):
        LeanTextClassifier(str(inputs / "encoder"), recipe="agnews-roberta").fit(["word1"], ["a"])


@pytest.mark.parametrize(
    ("name", "ends_with"),
    [pytest.param("SIGINT", "KeyboardInterrupt()", marks=pytest.mark.long), ("SIGTERM", "SystemExit(143)")],
)
def test_a_signal_ends_a_search_and_not_one_fit_of_it(inputs, tmp_path, name, ends_with, command):
    code = """
import sys, threading, os, signal, time
from pathlib import Path
from sklearn.model_selection import GridSearchCV
from leantune.estimator import LeanTextClassifier
from leantune.training import loop
original, fits = loop.train, []
def train(*args):
    fits.append(len(fits))
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
    return original(*args)
import leantune.training.run as run
run.train = train
texts = [f"word{i % 30}" for i in range(120)]
settings = dict(epochs=2, batch_size=8, max_length=32, validation_size=12, learning_rate=1e-2)
search = GridSearchCV(LeanTextClassifier(sys.argv[1], recipe=settings), {"max_trainable_params": [4000, 5000]}, cv=2)
try:
    search.fit(texts, [("a", "b")[i % 2] for i in range(120)])
except (KeyboardInterrupt, SystemExit) as error:
    print("stopped after", len(fits), repr(error))
"""
    done = command.run(inputs / "encoder", name, code=code, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.stdout == f"stopped after 1 {ends_with}\n", done.stderr
    assert not list(tmp_path.glob("leantune-*"))


def test_a_handler_of_the_caller_gets_its_signal(inputs, tmp_path, command):
    code = """
import os, signal, sys
from leantune.estimator import LeanTextClassifier
import leantune.training.run as run
original, received = run.train, []
def train(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    return original(*arguments)
run.train = train
signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
settings = dict(epochs=2, batch_size=8, max_length=32, validation_size=12, learning_rate=1e-2)
try:
    LeanTextClassifier(sys.argv[1], recipe=settings).fit(
        [f"word{i % 30}" for i in range(120)], [("a", "b")[i % 2] for i in range(120)]
    )
except SystemExit as error:
    print("stopped", repr(error), received == [signal.SIGTERM])
"""
    done = command.run(inputs / "encoder", code=code, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.stdout == "stopped SystemExit(143) True\n", done.stderr


@pytest.mark.parametrize("classes", [(0.0, 1.0), (False, True), (np.int32(7), np.int32(-1)), ("yes", "no")])
def test_labels_keep_their_type(inputs, classes):
    texts, labels = rows(inputs / "train.csv")
    y = [classes[int(label == labels[0])] for label in labels]
    estimator = LeanTextClassifier(str(inputs / "encoder"), recipe=SETTINGS | {"epochs": 1}).fit(texts, y)
    assert list(estimator.classes_) == sorted(classes)
    assert set(estimator.predict(texts[:20])) <= set(classes)
