"""Training on so few rows that none can be held out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import leantune
from leantune.cli.main import main
from leantune.errors import Interrupted
from leantune.training.run import run_training
from test_training import InterruptAt
from tiny import WORDS, quiet, recipe_for, write_rows


def few(path: Path, num_rows: int = 18) -> Path:
    write_rows(path, 400)
    rows = list(csv.reader(path.read_text("utf-8").splitlines()))
    chosen = [row for label in "abc" for row in rows if row[1] == label][: 3 * 100]
    by_label = {label: [row for row in chosen if row[1] == label][: num_rows // 3] for label in "abc"}
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([rows[0], *(row for each in by_label.values() for row in each)])
    return path


def changes_for(tmp_path: Path) -> dict:
    return {
        "data": str(few(tmp_path / "few.csv")),
        "test": None,
        "epochs": None,
        "learning_rate": None,
        "validation_size": None,
        "adapter_init": "gradient",
        "orth_reg_weight": 0,
    }


def test_a_run_without_held_out_rows_is_whole(inputs, tmp_path, capsys):
    changes = changes_for(tmp_path)
    words = [f"{key}={value}" for key, value in changes.items()]
    own = {"model": inputs / "encoder", "output": tmp_path / "run", "init_rank": 4, "max_length": 32}
    assert main(["train", *words, *(f"{key}={value}" for key, value in own.items())]) == 0
    printed = capsys.readouterr()
    assert "no rows are held out" in printed.err
    assert "accuracy" not in printed.out
    record = json.loads((tmp_path / "run" / "record.json").read_text("utf-8"))
    assert record["metrics"] == {"validation": None, "test": None}
    assert record["data"]["validation"] is None
    assert record["data"]["train"]["rows"] == 18
    assert record["selected"]["rule"] == "last"
    assert record["selected"]["step"] == record["schedule"]["total_steps"] == 30
    assert record["recipe"]["epochs"] == 30
    assert record["artefacts"]["adapter"]["max_logit_difference"] < 1e-3
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "The model was not evaluated" in page
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(inputs / "test.csv")]) == 0


def test_it_resumes_to_the_same_bits(inputs, tmp_path, monkeypatch):
    changes = changes_for(tmp_path)
    whole = run_training(recipe_for(inputs, tmp_path / "whole", **changes), console=quiet())
    recipe = recipe_for(inputs, tmp_path / "parts", **changes)
    with monkeypatch.context() as patch:
        InterruptAt(patch, 7)
        with pytest.raises(Interrupted):
            run_training(recipe, console=quiet())
    resumed = run_training(recipe, console=quiet(), resume=True)
    weights = "adapter/adapter_model.safetensors"
    assert (resumed / weights).read_bytes() == (whole / weights).read_bytes()


def test_many_classes_with_few_rows_are_planned_without_a_size(inputs, tmp_path):
    rng = np.random.default_rng(0)
    labels = [f"intent {i}" for i in range(60) for _ in range(8)]
    texts = [" ".join(rng.choice(WORDS, 5)) for _ in labels]
    plan = leantune.plan((texts, labels), encoder=inputs / "encoder", max_length=32)
    assert plan.steps is not None
    assert plan.steps.steps_per_epoch == 15  # all 480 rows
    assert plan.recipe.epochs == 14


def test_a_class_with_a_single_row_is_named_and_trained_on(inputs, tmp_path):
    path = write_rows(tmp_path / "rows.csv", 300)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{WORDS[0]} {WORDS[1]},lonely\n")
    folder = tmp_path / "run"
    text = run_lines(inputs, folder, data=str(path), test=None, epochs=1, validation_size=None)
    assert "classes with a single row: 'lonely'" in text
    record = json.loads((folder / "record.json").read_text("utf-8"))
    assert record["data"]["train"]["label_counts"]["lonely"] == 1
    assert record["data"]["validation"]["rows"] == 31


def run_lines(inputs: Path, folder: Path, **changes: object) -> str:
    console = quiet()
    run_training(recipe_for(inputs, folder, **changes), console=console)
    return console.file.getvalue()  # type: ignore[attr-defined]
