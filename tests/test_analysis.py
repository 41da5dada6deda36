"""The questions of the command line in Python, for rows in files and in memory."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

import leantune
from leantune.cli.main import main
from leantune.errors import UsageError

KEYS = {"init_rank": 2, "max_length": 32, "epochs": 2, "learning_rate": 0.01, "quiet": True}


def rows_of(path) -> tuple[list[str], list[str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def test_an_audit_of_a_file_is_that_of_its_rows_in_memory(inputs):
    texts, labels = rows_of(inputs / "train.csv")
    state = torch.get_rng_state()
    found, same = (
        leantune.audit(data, encoder=inputs / "encoder", folds=2, **KEYS)
        for data in (inputs / "train.csv", (texts, labels))
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(found.probabilities, same.probabilities)
    assert found.probabilities.shape == (240, 3)
    suspects = found.suspects
    assert (np.diff(found.score[suspects]) <= 0).all()
    assert [labels[i] for i in suspects] != [found.names[found.likely[i]] for i in suspects]
    assert len(suspects) == sum(number for *_, number in found.confusion())


def test_a_learning_curve_is_that_of_the_command(inputs, capsys):
    found = leantune.learning_curve(
        inputs / "train.csv", encoder=inputs / "encoder", validation=rows_of(inputs / "test.csv"), **KEYS
    )
    words = ["--data", str(inputs / "train.csv"), "--validation", str(inputs / "test.csv"), "--quiet"]
    words += ["--model", str(inputs / "encoder"), "--init-rank", "2", "--max-length", "32", "--epochs", "2"]
    assert main(["learning-curve", *words, "--learning-rate", "0.01", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [point.accuracy for point in found.points] == [each["accuracy"] for each in said["points"]]
    assert found.forecast(480).accuracy == pytest.approx(said["forecast"][0]["accuracy"])


def test_a_frontier_of_rows_in_memory_is_that_of_a_file(inputs):
    settings = {"encoder": inputs / "encoder", "with_full": False, **KEYS}
    found, same = (
        leantune.frontier(rows_of(path) if i else path, validation=inputs / "test.csv", **settings)
        for i, path in enumerate([inputs / "train.csv"] * 2)
    )
    assert [point.accuracy for point in found.points] == [point.accuracy for point in same.points]
    assert found.points[0].name == "linear probe"
    assert found.smallest.recipe.max_trainable_params == found.smallest.parameters


def test_a_passport_of_a_file_is_that_of_its_rows_in_memory(run, inputs):
    found = leantune.passport(run, inputs / "test.csv")
    same = leantune.passport(run, rows_of(inputs / "test.csv"))
    assert found.num_rows == same.num_rows == 60
    assert [form.accuracy for form in found.forms] == [form.accuracy for form in same.forms]
    assert found.forms[0].name == "as measured"
    assert not found.forms[0].lost(0.0)


def test_what_is_not_looked_at_is_refused(inputs, run):
    settings = {"encoder": inputs / "encoder", **KEYS}
    with pytest.raises(UsageError, match="folds must be 2 or more"):
        leantune.audit(inputs / "train.csv", folds=1, **settings)
    with pytest.raises(UsageError, match="test, output: not used here"):
        leantune.audit(inputs / "train.csv", test="x.csv", output="y", **settings)
    with pytest.raises(UsageError, match="not a run folder"):
        leantune.passport(run / "merged", inputs / "test.csv")
