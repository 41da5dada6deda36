"""Short runs that choose what the recipe leaves open: ``effort=balanced``."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leantune.config import load_recipe
from leantune.errors import Interrupted
from leantune.report.page import render
from leantune.report.run_folder import load_run
from leantune.training import run as run_module
from leantune.training.before.race import best_of
from leantune.training.run import run_training
from tiny import quiet, recipe_for

OPEN = {
    "effort": "balanced",
    "method": None,
    "targets": None,
    "init_rank": None,
    "target_rank": None,
    "learning_rate": None,
    "max_trainable_params": 6_000,
    "adapter_init": "gradient",
    "orth_reg_weight": 0,
    "epochs": 3,
}
WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def run(inputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("race") / "run"
    return run_training(recipe_for(inputs, folder, **OPEN), console=quiet())


def record_of(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text("utf-8"))


def test_the_default_or_a_candidate_with_a_lower_log_loss_is_trained(run):
    record = record_of(run)
    tried = record["race"]
    ways = [(each["method"], each["targets"]) for each in tried]
    assert ways == [("lora", "all-linear")] * 2 + [("adalora", "attention")] * 2
    assert len({each["learning_rate"] for each in tried}) == 2
    chosen = {key: record["recipe"][key] for key in ("method", "targets", "learning_rate")}
    is_chosen = [chosen.items() <= each.items() for each in tried]
    assert sum(is_chosen) == 1
    lowest = min(each["log_loss"] for each in tried)
    assert tried[is_chosen.index(True)]["log_loss"] == lowest or is_chosen[0]
    assert "Candidates" in render(load_run(run))
    assert all(each["steps"] == record["schedule"]["steps_per_epoch"] for each in tried)
    assert record["schedule"]["total_steps"] == 3 * tried[0]["steps"]


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(-1, 1), st.integers(2, 200))
def test_a_candidate_is_taken_if_it_is_better_by_more_than_a_standard_error(seed, gain, num_rows):
    rng = np.random.default_rng(seed)
    default = rng.exponential(size=num_rows)
    noise = rng.normal(size=num_rows)
    noise = (noise - noise.mean()) / noise.std(ddof=1) * 2  # its standard error is known
    other = default - gain + noise
    margin = 2 / math.sqrt(num_rows)
    if abs(gain - margin) > 1e-6:
        assert best_of([default, other]) == int(gain > margin)
    failed = np.full(num_rows, np.inf)
    assert best_of([default, failed]) == 0
    assert best_of([failed, default]) == 1


def test_the_run_is_that_of_the_recipe_it_wrote(run, tmp_path):
    recipe = load_recipe(str(run / "recipe.yaml"), {"output": str(tmp_path / "again")})
    again = run_training(recipe, console=quiet())
    assert record_of(again).get("race") is None, "it names everything"
    assert (again / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()


def test_what_the_recipe_names_is_not_tried(inputs, tmp_path, monkeypatch):
    found = []
    original = run_module.race

    def race(run, asked):
        found.append(original(run, asked))
        return found[-1]

    monkeypatch.setattr(run_module, "race", race)
    named = {"targets": "query", "method": "lora", "init_rank": 2, "epochs": 1}
    run_training(recipe_for(inputs, tmp_path / "run", **OPEN | named), console=quiet())
    assert [(each.method, each.targets) for each in found[0]] == [("lora", "query")] * 2
    assert len({each.learning_rate for each in found[0]}) == 2


def test_without_validation_rows_nothing_is_tried(inputs, tmp_path):
    changes = OPEN | {"validation_size": 0, "epochs": 1}
    folder = run_training(recipe_for(inputs, tmp_path / "run", **changes), console=quiet())
    assert record_of(folder).get("race") is None


def test_a_resumed_run_keeps_what_was_chosen(inputs, run, tmp_path, monkeypatch):
    recipe = recipe_for(inputs, tmp_path / "run", **OPEN)
    with monkeypatch.context() as patch:
        original = run_module.train

        def train(state, phase, recipe, observer):
            observer.interrupt.signal_number = 15  # after its first step
            return original(state, phase, recipe, observer)

        patch.setattr(run_module, "train", train)
        with pytest.raises(Interrupted):
            run_training(recipe, console=quiet())
    written = load_recipe(str(tmp_path / "run" / "recipe.yaml"), {})
    folder = run_training(written, console=quiet(), resume=True)
    assert record_of(folder)["race"] == [
        each | {"seconds": again["seconds"]}
        for each, again in zip(record_of(run)["race"], record_of(folder)["race"], strict=True)
    ]
    assert (folder / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()
