"""A search for the best recipe: the limit holds, bad candidates end early, and what was tried is not lost."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leantune.cli.main import main
from leantune.cluster.search.run import best_of, search
from leantune.cluster.search.settings import Search, Tried
from leantune.cluster.search.space import Choice, Range, Space, read_space
from leantune.cluster.search.trials import defaults_of, space_of
from leantune.config import Recipe, load_recipe
from leantune.config.record.run import RunRecord, read_record
from leantune.errors import UsageError
from leantune.training.run import run_training
from tiny import quiet, recipe_for

pytest.importorskip("optuna")

RATES = Space((("learning_rate", Range(1e-6, 1e-1, is_log=True, is_whole=False)),))
TRAINED = ("finished", "stopped", "diverged")


def asked(inputs: Path, folder: Path, **changes: object) -> Recipe:
    """A recipe that says how fast alone, by log loss, from a head that knows nothing."""
    return recipe_for(inputs, folder, **{"metric": "log_loss", "warm_start": False, "test": None} | changes)


def searched(settings: Search) -> list[Tried]:
    told: list[int] = []
    tried = search(settings, lambda each: told.append(each.number))
    trained = [each.number for each in tried if each.trial.status in TRAINED]
    assert sorted(told) == trained
    return tried


def without_seconds(folder: Path) -> list[list[str]]:
    with (folder / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [[value for key, value in row.items() if key != "seconds"] for row in rows]


@pytest.fixture(scope="module")
def by_rate(inputs, tmp_path_factory) -> tuple[Search, list[Tried]]:
    folder = tmp_path_factory.mktemp("search") / "by-rate"
    settings = Search(
        recipe=asked(inputs, folder, test=str(inputs / "not there.csv")), space=RATES, trials=14
    )
    return settings, searched(settings)


def test_the_rate_at_which_the_model_learns_is_found(by_rate):
    """Below 1e-3 four epochs leave the loss at log 3."""
    _, tried = by_rate
    best = best_of(tried, "log_loss")
    assert 2e-3 < best.values["learning_rate"] <= 1e-1
    slow = [each for each in tried if each.values["learning_rate"] < 1e-4]
    assert slow
    assert best.trial.value < min(each.trial.value for each in slow) - 0.2


def test_trials_that_fall_behind_are_stopped(by_rate):
    stopped = [each.trial for each in by_rate[1] if each.trial.status == "stopped"]
    finished = [each.trial for each in by_rate[1] if each.trial.status == "finished"]
    assert len(stopped) >= 4
    assert finished
    assert all(trial.used in (0.25, 0.5) for trial in stopped), "an evaluation after each of four epochs"
    assert all(trial.used == 1 for trial in finished)


def test_no_trial_leaves_a_model_or_looks_at_test_rows(by_rate):
    """The file of test rows is not there."""
    folder = by_rate[0].folder
    assert {path.name for path in folder.iterdir()} == {
        "search.json",
        "trials.log",
        "trials.csv",
        "best.yaml",
    }
    assert "not there.csv" in (folder / "best.yaml").read_text()


def test_the_recipe_of_the_winner_reaches_what_its_trial_did(by_rate, inputs, tmp_path):
    settings, tried = by_rate
    changes = {"output": str(tmp_path / "run"), "test": str(inputs / "test.csv")}
    run = run_training(load_recipe(str(settings.folder / "best.yaml"), changes), console=quiet())
    record = read_record(run, RunRecord)
    assert record.metrics.validation.log_loss == best_of(tried, "log_loss").trial.value
    assert record.metrics.test.num_rows == 60


def test_the_same_seed_tries_the_same(by_rate, inputs, tmp_path):
    searched(Search(recipe=asked(inputs, tmp_path / "again"), space=RATES, trials=6))
    assert without_seconds(tmp_path / "again") == without_seconds(by_rate[0].folder)[:6]


def test_no_trial_is_above_the_limit(inputs, tmp_path):
    """Ranks up to 32 are drawn; the limit pays for less, and for least in all linear layers."""
    space = Space(
        (
            ("targets", Choice(("attention", "all-linear"))),
            ("init_rank", Range(2, 32, is_log=True, is_whole=True)),
        )
    )
    changes = {"init_rank": None, "target_rank": None, "epochs": 2}
    recipe = asked(inputs, tmp_path / "search", max_trainable_params=3000, **changes)
    tried = searched(Search(recipe=recipe, space=space, trials=6))
    fitting = [each.trial for each in tried if each.trial.status in TRAINED]
    others = [each.trial for each in tried if each.trial.status not in TRAINED]
    assert len(fitting) == 6
    assert all(trial.parameters <= 3000 for trial in fitting)
    assert others, "some of what is drawn is above the limit"
    assert all(trial.status == "too large" and trial.used == 0 for trial in others)
    assert all("max_trainable_params is 3,000" in trial.error for trial in others)


def test_what_is_tried_by_itself_is_what_the_recipe_leaves_open(inputs, tmp_path):
    free = {"init_rank": None, "target_rank": None, "epochs": None, "learning_rate": None}
    recipe = asked(inputs, tmp_path / "s", **free, adapter_init="gradient", max_trainable_params=6000)
    settings = Search(recipe=recipe, space=None, trials=1)
    space, defaults = space_of(settings.candidate), defaults_of(settings.candidate)
    assert space.keys == ("learning_rate", "targets", "init_rank", "epochs")
    assert space.holds(defaults)
    first = searched(settings)[0]
    assert first.values == defaults
    run = run_training(load_recipe(None, recipe.by_key() | {"output": tmp_path / "run"}), console=quiet())
    assert read_record(run, RunRecord).metrics.validation.log_loss == first.trial.value


@pytest.mark.long
def test_a_search_that_is_killed_goes_on_with_its_trials(inputs, by_rate, tmp_path):
    folder = tmp_path / "search"
    space = tmp_path / "space.yaml"
    space.write_text("learning_rate: {low: 1e-6, high: 0.1, log: true}\n")
    recipe = asked(inputs, folder)
    words = [f"{key}={value}" for key, value in recipe.by_key().items()]
    command = [sys.executable, "-m", "leantune.cli", "search", *words, "--space", str(space), "--trials", "6"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
        ended = time.monotonic() + 120
        while time.monotonic() < ended and (
            not (folder / "trials.csv").exists() or len(without_seconds(folder)) < 2
        ):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = without_seconds(folder)
    assert 2 <= len(before) < 6
    assert subprocess.run(command, env=environment, capture_output=True, text=True).returncode == 2
    done = subprocess.run([*command, "--resume"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = without_seconds(folder)
    assert after[: len(before)] == before
    assert [row[1:] for row in after] == [row[1:] for row in without_seconds(by_rate[0].folder)[:6]]
    other = subprocess.run(
        [*command, "--resume", "epochs=3"], env=environment, capture_output=True, text=True
    )
    assert "the search was started with other settings: epochs: was 4, is 3" in other.stderr


@pytest.mark.long
def test_two_workers_share_the_trials_and_the_winner_is_tested(inputs, tmp_path, capsys):
    recipe = asked(inputs, tmp_path / "search", metric="accuracy", test=str(inputs / "test.csv"))
    words = [
        f"{key}={value}" for key, value in recipe.by_key().items() if key not in ("learning_rate", "labels")
    ]
    assert main(["search", *words, "--trials", "4", "--workers", "2", "--train-winner"]) == 0
    assert len(without_seconds(tmp_path / "search")) == 4
    record = read_record(tmp_path / "search" / "winner", RunRecord)
    assert (record.status, record.metrics.test.num_rows) == ("finished", 60)
    assert "best.yaml" in capsys.readouterr().out


@pytest.mark.long
def test_on_ray_a_search_is_gone_on_with_inside_the_limit_and_its_winner_is_the_same_here(inputs, tmp_path):
    pytest.importorskip("ray")
    folder = tmp_path / "search"
    space = tmp_path / "space.yaml"
    space.write_text(
        "learning_rate: {low: 1e-6, high: 0.1, log: true}\ninit_rank: {low: 2, high: 32, log: true}\n"
    )
    recipe = asked(inputs, folder, init_rank=None, target_rank=None, max_trainable_params=3000)
    words = [f"{key}={value}" for key, value in recipe.by_key().items()]
    command = [sys.executable, "-m", "leantune.cli", "search", *words, "--space", str(space), "--trials", "5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command += ["--cluster", "local"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, env=environment, text=True, cwd=tmp_path
    ) as process:
        ended = time.monotonic() + 240
        while time.monotonic() < ended and (
            not list((folder / "ray").glob("experiment_state-*.json"))
            or len([each for each in (folder / "ray").glob("*") if each.is_dir()]) < 3
        ):
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    assert "run the same command with --resume to continue" in said
    done = subprocess.run(
        [*command, "--resume"], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    with (folder / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert all(int(row["parameters"]) <= 3000 for row in rows if row["status"] == "finished")
    finished = [row for row in rows if row["status"] == "finished"]
    best = min(finished, key=lambda row: float(row["value"]))
    run = run_training(
        load_recipe(str(folder / "best.yaml"), {"output": str(tmp_path / "run")}), console=quiet()
    )
    assert read_record(run, RunRecord).metrics.validation.log_loss == pytest.approx(
        float(best["value"]), rel=1e-5
    )


def test_a_space_that_cannot_be_is_refused(tmp_path):
    path = tmp_path / "space.yaml"
    for text, said in {
        "learning_rat: [1, 2]": "unknown key 'learning_rat'; did you mean 'learning_rate'",
        "max_length: [64, 128]": "max_length cannot be searched, because all trials share it",
        "epochs: {low: 5, high: 2}": "epochs: low 5 and high 2 must be numbers with low < high",
        "epochs: 3": "epochs: 3, expected a list of values",
        "warmup: {low: 0, high: 0.5, log: true}": "true only if low is above 0",
        "method: [adalora, lara]": "method must be one of adalora, lora. Got 'lara' instead",
    }.items():
        path.write_text(text)
        with pytest.raises(UsageError) as caught:
            read_space(str(path))
        assert said in str(caught.value)


def test_a_file_makes_a_space(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(
        "learning_rate: {low: 1e-4, high: 1e-2, log: true}\nepochs: {low: 2, high: 6}\nmethod: [lora, adalora]\n"
    )
    assert read_space(str(path)) == Space(
        (
            ("learning_rate", Range(1e-4, 1e-2, is_log=True, is_whole=False)),
            ("epochs", Range(2, 6, is_log=False, is_whole=True)),
            ("method", Choice(("lora", "adalora"))),
        )
    )


def test_what_a_search_cannot_do_is_said_before_it_begins(inputs, tmp_path, capsys):
    words = [f"{key}={value}" for key, value in asked(inputs, tmp_path / "s").by_key().items()]
    for more, said in (
        (["effort=balanced"], "effort=balanced: not supported in a search"),
        (["validation_size=0"], "a search needs validation rows"),
        (["--resume"], "no search to resume"),
    ):
        assert main(["search", *words, *more, "--trials", "2"]) == 2
        assert said in capsys.readouterr().err
    assert main(["search", *[each for each in words if "output" not in each], "--trials", "2"]) == 2
    assert "--output FOLDER is missing" in capsys.readouterr().err
