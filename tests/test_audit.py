"""Wrong labels: those that were planted stand first, and nobody's label is judged by a classifier that has seen it."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from rich.console import Console

from leantune.cli.main import main
from leantune.config import load_recipe
from leantune.errors import DataError
from leantune.questions.audit.compute import audit, folds_of
from leantune.training.build import prepare_run
from tiny import quiet, recipe_for, write_rows


@pytest.fixture(scope="module")
def planted(inputs, tmp_path_factory):
    """300 rows, 30 of which have another label than they had; their numbers."""
    folder = tmp_path_factory.mktemp("planted")
    with write_rows(folder / "clean.csv", 300, seed=3).open(newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = np.random.default_rng(0).choice(300, 30, replace=False)
    for i in wrong:
        rows[i]["label"] = {"a": "b", "b": "c", "c": "a"}[rows[i]["label"]]
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "train.csv", set(wrong.tolist())


def words_of(data, inputs, output):
    return [
        "--data",
        str(data),
        "--model",
        str(inputs / "encoder"),
        "--init-rank",
        "2",
        "--max-length",
        "32",
        "--learning-rate",
        "0.01",
        "--epochs",
        "60",
        "--output",
        str(output),
    ]


@pytest.fixture(scope="module")
def audited(planted, inputs, tmp_path_factory):
    output = tmp_path_factory.mktemp("audit") / "audit"
    assert main(["audit", *words_of(planted[0], inputs, output), "--folds", "3", "--quiet"]) == 0
    return output


def test_planted_labels_stand_first(audited, planted):
    with (audited / "suspects.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    first = [int(row["row"]) in planted[1] for row in found[:20]]
    assert sum(first) >= 18
    assert [float(row["score"]) for row in found] == sorted(
        (float(row["score"]) for row in found), reverse=True
    )
    with planted[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    for each in found:
        assert each["label"] != each["likely"]
        assert rows[int(each["row"])] == {"text": each["text"], "label": each["label"]}


def test_the_files_for_cleanlab_are_of_all_rows_in_their_order(audited, planted):
    probabilities, labels = np.load(audited / "pred_probs.npy"), np.load(audited / "labels.npy")
    names = json.loads((audited / "classes.json").read_text())
    with planted[0].open(newline="") as file:
        assert [names[i] for i in labels] == [row["label"] for row in csv.DictReader(file)]
    assert probabilities.shape == (300, 3)
    assert np.allclose(probabilities.sum(1), 1)


def test_label_studio_gets_tasks_that_fit_their_configuration(audited):
    tasks = json.loads((audited / "label_studio.json").read_text())
    choices = {each.get("value") for each in ET.parse(audited / "label_studio.xml").iter("Choice")}
    assert choices == {"a", "b", "c"}
    for task in tasks:
        (prediction,) = task["predictions"]
        (result,) = prediction["result"]
        assert (result["from_name"], result["to_name"], result["type"]) == ("label", "text", "choices")
        assert set(result["value"]["choices"]) <= choices
        assert task["data"]["text"]


def test_equal_texts_are_in_one_fold_and_classes_in_all(inputs, tmp_path):
    rows = (inputs / "train.csv").read_text().splitlines()
    (tmp_path / "doubled.csv").write_text("\n".join([*rows, *rows[1:]]) + "\n")
    keys = {
        "data": str(tmp_path / "doubled.csv"),
        "model": str(inputs / "encoder"),
        "output": str(tmp_path / "x"),
    }
    run = prepare_run(load_recipe(None, keys), console=quiet(), overwrite=False, resume=False)
    found = run.data.train + run.data.validation
    fold_of = folds_of(found, 4, seed=1)
    hashes = found.hashes()
    for each in np.unique(hashes):
        assert len(set(fold_of[hashes == each])) == 1
    for fold in range(4):
        assert set(found.label_ids[fold_of == fold]) == {0, 1, 2}
    assert np.ptp(np.bincount(fold_of)) < 20


def test_what_an_audit_cannot_do_is_said_first(inputs, planted, tmp_path, capsys):
    words = words_of(planted[0], inputs, tmp_path / "out")
    with pytest.raises(SystemExit):
        main(["audit", *words, "--folds", "1"])
    assert "--folds: must be at least 2. Got 1" in capsys.readouterr().err
    assert main(["audit", *words, "--validation", str(inputs / "test.csv")]) == 2
    assert "leave them out" in capsys.readouterr().err
    (tmp_path / "few.csv").write_text("text,label\nword1,a\nword2,b\nword3,a\nword9,b\n")
    recipe = load_recipe(
        None, {"data": str(tmp_path / "few.csv"), "model": str(inputs / "encoder"), "output": "x"}
    )
    with pytest.raises(DataError, match="4 rows, expected at least 20 rows"):
        audit(recipe, folds=2, console=quiet())


def test_a_terminal_shows_which_fold_it_is_and_how_many_rows_are_left(inputs, tmp_path):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120)
    recipe = recipe_for(inputs, tmp_path / "run", epochs=1)
    found = audit(recipe, folds=2, console=terminal)
    shown, half = screen.getvalue(), len(found.rows) // 2
    assert re.search(rf"fold 1 of 2: fitting the linear probe: [\d,]+ of {half} rows", shown)
    assert re.search(r"fold 2 of 2.*step \d+/\d+", shown)
