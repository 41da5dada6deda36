"""Rows without labels, of which those are trained on that a first run is sure of."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import leantune
from leantune.config import load_recipe
from leantune.errors import CheckpointError, Interrupted, UsageError
from leantune.report.page import render
from leantune.report.run_folder import load_run
from leantune.training.before import pseudo_labels
from leantune.training.run import run_training
from leantune.training.trial import trained
from test_training import InterruptAt
from tiny import quiet, recipe_for, write_rows

WEIGHTS = "adapter/adapter_model.safetensors"
OPEN = {
    "epochs": None,
    "learning_rate": None,
    "adapter_init": "gradient",
    "orth_reg_weight": 0,
    "max_length": 32,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """Unlabelled rows: new ones, one that says little, and every labelled one of the training file."""
    folder = tmp_path_factory.mktemp("unlabelled")
    write_rows(folder / "labelled.csv", 90, seed=3)
    write_rows(folder / "new.csv", 150, seed=4)
    labelled, new = (
        list(csv.reader((folder / name).read_text("utf-8").splitlines()))[1:]
        for name in ("labelled.csv", "new.csv")
    )
    with (folder / "unlabelled.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [["text"], *([text] for text, _ in new), ["[UNK]"], *([t] for t, _ in labelled)]
        )
    return folder


def changes_for(rows: Path) -> dict:
    return OPEN | {
        "data": str(rows / "labelled.csv"),
        "unlabelled": str(rows / "unlabelled.csv"),
        "validation_size": 30,
    }


@pytest.fixture(scope="module")
def run(inputs, rows, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("pseudo") / "run"
    return run_training(recipe_for(inputs, output, **changes_for(rows)), console=quiet())


def record_of(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text("utf-8"))


def taken(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "pseudo_labels.csv").read_text("utf-8").splitlines()))


def test_rows_that_the_first_run_is_sure_of_are_trained_on(run, rows):
    record, lines = record_of(run), taken(run)
    found = record["pseudo_labels"]
    assert found["rows"] == 241
    assert 20 < found["taken"] == len(lines) < 151, "many are easy, the one without a known word is not"
    assert all(float(line["probability"]) >= 0.9 for line in lines)
    assert sum(found["label_counts"].values()) == found["taken"]
    steps = -(-(60 + found["taken"]) // 16)
    assert record["schedule"]["steps_per_epoch"] == steps, "of both kinds of rows"
    truth = list(csv.DictReader((rows / "new.csv").read_text("utf-8").splitlines()))
    right = np.mean([truth[int(line["row"])]["label"] == line["label"] for line in lines])
    assert right > 0.9, "labels are of the rows that they are said to be of"
    assert [line["text"] for line in lines] == [truth[int(line["row"])]["text"] for line in lines]


def test_labelled_rows_are_left_out(run):
    assert record_of(run)["pseudo_labels"]["rows_also_labelled"] == 90
    assert max(int(line["row"]) for line in taken(run)) < 150


def test_the_report_says_so(run):
    page = render(load_run(run))
    assert "Rows without labels" in page
    assert f"{record_of(run)['pseudo_labels']['taken']}" in page


def test_the_recipe_of_the_run_runs_the_same_again(run, tmp_path):
    recipe = load_recipe(str(run / "recipe.yaml"), {"output": str(tmp_path / "again")})
    assert recipe.epochs is not None
    again = run_training(recipe, console=quiet())
    assert (again / "pseudo_labels.csv").read_bytes() == (run / "pseudo_labels.csv").read_bytes()
    assert (again / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()


def interrupted(inputs, rows: Path, output: Path, monkeypatch) -> Path:
    with monkeypatch.context() as patch:
        InterruptAt(patch, 7)
        with pytest.raises(Interrupted):
            run_training(recipe_for(inputs, output, **changes_for(rows)), console=quiet())
    return output


def test_a_resumed_run_equals_an_uninterrupted_one(inputs, run, rows, tmp_path, monkeypatch):
    folder = interrupted(inputs, rows, tmp_path / "run", monkeypatch)
    with monkeypatch.context() as patch:  # the first run is not repeated
        patch.setattr(pseudo_labels, "trained", None)
        run_training(load_recipe(str(folder / "recipe.yaml"), {}), console=quiet(), resume=True)
    assert (folder / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()


def test_labels_that_were_changed_are_not_resumed_with(inputs, rows, tmp_path, monkeypatch):
    folder = interrupted(inputs, rows, tmp_path / "run", monkeypatch)
    path = folder / "pseudo_labels.csv"
    path.write_text(path.read_text("utf-8").replace(",a,", ",b,"), "utf-8")
    with pytest.raises(CheckpointError, match=r"pseudo_labels\.csv is not what the run wrote"):
        run_training(load_recipe(str(folder / "recipe.yaml"), {}), console=quiet(), resume=True)


def test_other_unlabelled_rows_are_not_resumed_with(inputs, rows, tmp_path, monkeypatch):
    other = tmp_path / "unlabelled.csv"
    other.write_bytes((rows / "unlabelled.csv").read_bytes())
    with monkeypatch.context() as patch:
        InterruptAt(patch, 7)
        changes = changes_for(rows) | {"unlabelled": str(other)}
        with pytest.raises(Interrupted):
            run_training(recipe_for(inputs, tmp_path / "run", **changes), console=quiet())
    other.write_text(other.read_text("utf-8") + "word1 word2\n", "utf-8")
    with pytest.raises(CheckpointError, match=r"unlabelled rows of .* have changed"):
        run_training(load_recipe(str(tmp_path / "run" / "recipe.yaml"), {}), console=quiet(), resume=True)


def test_texts_that_csv_finds_hard_are_read_by_it_and_resumed_with(inputs, rows, tmp_path, monkeypatch):
    words = [line["text"] for line in csv.DictReader((rows / "new.csv").read_text("utf-8").splitlines())][:40]
    forms = ["={}", '"{}", "', "{}\r\n\nword1", "{}\0", "{}" + " word1" * 30_000]
    texts = [forms[i % len(forms)].format(text) for i, text in enumerate(words)]
    (tmp_path / "hard.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    changes = changes_for(rows) | {"unlabelled": str(tmp_path / "hard.jsonl")}
    monkeypatch.setattr(pseudo_labels, "SURE", 0.0)
    with monkeypatch.context() as patch:
        InterruptAt(patch, 7)
        with pytest.raises(Interrupted):
            run_training(recipe_for(inputs, tmp_path / "run", **changes), console=quiet())
    with (tmp_path / "run" / "pseudo_labels.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["row"]) for line in lines] == list(range(len(texts)))
    for text, line in zip(texts, lines, strict=True):
        assert (
            line["text"].rstrip("…")
            == " ".join(text.replace("\0", " ").split())[: len(line["text"].rstrip("…"))]
        )
        assert len(line["text"]) <= 300
    run_training(load_recipe(str(tmp_path / "run" / "recipe.yaml"), {}), console=quiet(), resume=True)


def test_a_file_that_is_gone_after_the_first_run_costs_the_texts_and_not_the_run(
    inputs, rows, tmp_path, monkeypatch
):
    unlabelled = tmp_path / "unlabelled.csv"
    unlabelled.write_bytes((rows / "unlabelled.csv").read_bytes())

    def and_then_gone(first):
        classifier = trained(first)
        unlabelled.unlink()
        return classifier

    monkeypatch.setattr(pseudo_labels, "trained", and_then_gone)
    changes = changes_for(rows) | {"unlabelled": str(unlabelled)}
    folder = run_training(recipe_for(inputs, tmp_path / "run", **changes), console=quiet())
    assert {line["text"] for line in taken(folder)} == {""}


def test_texts_in_memory_and_test_rows_among_them(inputs, rows):
    texts = [line["text"] for line in csv.DictReader((inputs / "test.csv").read_text("utf-8").splitlines())]
    classifier = leantune.train(
        str(rows / "labelled.csv"),
        encoder=inputs / "encoder",
        test=str(inputs / "test.csv"),
        unlabelled=texts,
        quiet=True,
        epochs=1,
        init_rank=2,
        max_length=32,
    )
    assert classifier.metrics["test"]["num_rows"] == len(texts)


def test_balanced_effort_is_refused(inputs, rows, tmp_path):
    with pytest.raises(UsageError, match="effort must be fast with unlabelled rows"):
        recipe_for(inputs, tmp_path / "run", **changes_for(rows), effort="balanced")
