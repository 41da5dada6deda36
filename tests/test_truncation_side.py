"""Which end of long texts is cut off, in training, in the saved tokenizer and in prediction."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import leantune
from leantune.config import load_recipe
from leantune.errors import Interrupted
from leantune.training.run import run_training
from test_training import InterruptAt
from tiny import WORDS, quiet, recipe_for

LENGTH = 10


def write_long_rows(path: Path, num_rows: int, *, at_the_end: bool, seed: int = 0) -> Path:
    """Texts of 30 words of which eight, at one end, depend on the class."""
    rng = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for _ in range(num_rows):
            label = int(rng.integers(3))
            own, other = rng.integers(0, 8, 8) + 8 * label, rng.integers(30, len(WORDS), 22)
            ids = [*other, *own] if at_the_end else [*own, *other]
            writer.writerow([" ".join(WORDS[i] for i in ids), "abc"[label]])
    return path


def changes_for(folder: Path, *, at_the_end: bool) -> dict:
    parts = {
        name: str(write_long_rows(folder / f"{name}.csv", rows, at_the_end=at_the_end, seed=rows))
        for name, rows in (("data", 150), ("test", 60))
    }
    own = {"max_length": LENGTH, "adapter_init": "gradient", "orth_reg_weight": 0, "validation_size": 30}
    return parts | own


def record_of(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text("utf-8"))


@pytest.mark.parametrize("at_the_end", [True, False])
def test_the_end_that_says_more_is_kept(inputs, tmp_path, at_the_end):
    console = quiet()
    folder = run_training(
        recipe_for(inputs, tmp_path / "run", **changes_for(tmp_path, at_the_end=at_the_end)), console=console
    )
    record = record_of(folder)
    side = "left" if at_the_end else "right"
    assert record["recipe"]["truncation_side"] == side
    assert f"truncation_side={side}" in console.file.getvalue()  # type: ignore[attr-defined]
    assert record["metrics"]["test"]["accuracy"] > 0.8, "by chance a third"

    texts = [row["text"] for row in csv.DictReader((tmp_path / "test.csv").read_text("utf-8").splitlines())]
    predicted = leantune.load(folder).predict(texts)
    for artefact in ("adapter", "merged"):
        assert leantune.load(folder / artefact).predict(texts) == predicted
    from transformers import pipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classify = pipeline("text-classification", str(folder / "merged"), truncation=True, device="cpu")
    assert [each["label"] for each in classify(texts)] == predicted


def test_the_recipe_of_the_run_runs_the_same_again_and_resumes(inputs, tmp_path, monkeypatch):
    changes = changes_for(tmp_path, at_the_end=True)
    weights = "adapter/adapter_model.safetensors"
    whole = run_training(recipe_for(inputs, tmp_path / "whole", **changes), console=quiet())
    recipe = load_recipe(str(whole / "recipe.yaml"), {"output": str(tmp_path / "again")})
    again = run_training(recipe, console=quiet())
    assert (again / weights).read_bytes() == (whole / weights).read_bytes()
    with monkeypatch.context() as patch:
        InterruptAt(patch, 7)
        with pytest.raises(Interrupted):
            run_training(recipe_for(inputs, tmp_path / "parts", **changes), console=quiet())
    parts = run_training(load_recipe(str(tmp_path / "parts/recipe.yaml"), {}), console=quiet(), resume=True)
    assert (parts / weights).read_bytes() == (whole / weights).read_bytes()


def test_what_the_recipe_says_is_not_tried(inputs, tmp_path):
    console = quiet()
    changes = changes_for(tmp_path, at_the_end=True) | {"truncation_side": "right"}
    folder = run_training(recipe_for(inputs, tmp_path / "run", **changes), console=console)
    assert "Log loss of a linear probe" not in console.file.getvalue()  # type: ignore[attr-defined]
    assert record_of(folder)["metrics"]["test"]["accuracy"] < 0.6, "the words of the class were cut off"


def test_standard_input_is_read_once(inputs, tmp_path, command):
    changes = changes_for(tmp_path, at_the_end=True) | {"data": "-"}
    words = [
        f"{key}={value}" for key, value in recipe_for(inputs, tmp_path / "run", **changes).by_key().items()
    ]
    done = command.run("train", *words, input=(tmp_path / "data.csv").read_bytes(), text=False)
    assert done.returncode == 0, done.stderr.decode()
    assert record_of(tmp_path / "run")["recipe"]["truncation_side"] == "left"
