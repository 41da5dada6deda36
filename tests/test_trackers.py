"""Experiment trackers, each with its own library, on this machine alone."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import Commands
from leantune.errors import UsageError
from leantune.training import trackers
from leantune.training.run import run_training
from tiny import quiet, recipe_for, words_of


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


def train(command: Commands, inputs: Path, folder: Path, name: str, **environment: str) -> str:
    """In a process of its own: trackers start threads and servers, and warn."""
    words = words_of(inputs, folder / "run", report_to=None)
    done = command.run("train", *words, f"report_to={name}", cwd=folder, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    assert "gets no more metrics" not in done.stderr
    return done.stderr


@needs("tensorboard")
def test_tensorboard_has_the_curves(command, inputs, tmp_path):
    train(command, inputs, tmp_path, "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/learning_rate", "validation/accuracy"} <= set(events.Tags()["scalars"])
    steps = [each.step for each in events.Scalars("train/loss")]
    assert steps == list(range(1, 13))
    assert 0 <= events.Scalars("validation/accuracy")[-1].value <= 1


@needs("wandb")
def test_wandb_offline_writes_a_run(command, inputs, tmp_path):
    train(command, inputs, tmp_path, "wandb", WANDB_MODE="offline", WANDB_SILENT="true")
    assert list((tmp_path / "run").rglob("*.wandb"))


@needs("mlflow")
def test_mlflow_has_the_metrics(command, inputs, tmp_path):
    store = f"file://{tmp_path}/mlruns"
    train(command, inputs, tmp_path, "mlflow", MLFLOW_TRACKING_URI=store, MLFLOW_ALLOW_FILE_STORE="true")
    metrics = {
        path.relative_to(tmp_path).as_posix().partition("/metrics/")[2]
        for path in tmp_path.rglob("metrics/*/*")
    }
    assert {"train/loss", "validation/accuracy"} <= metrics


@needs("trackio")
def test_trackio_has_the_run(inputs, tmp_path):
    words = words_of(inputs, tmp_path / "run", report_to="trackio")
    settings = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "leantune", "train", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, **settings},
    )
    assert done.returncode == 0, done.stderr
    assert "gets no more metrics" not in done.stderr
    assert list((tmp_path / "trackio").rglob("leantune*"))


def test_an_unknown_one_is_refused(inputs, tmp_path):
    with pytest.raises(UsageError, match="report_to must be of tensorboard, wandb, mlflow, trackio"):
        recipe_for(inputs, tmp_path / "run", report_to="tensorbord")


def test_one_that_is_not_installed_is_named_before_anything_is_read(inputs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match="pip install wandb"):
        run_training(recipe_for(inputs, tmp_path / "run", report_to="wandb"), console=quiet())
    assert not (tmp_path / "run").exists()


def test_one_that_fails_on_the_way_does_not_end_the_run(inputs, tmp_path, monkeypatch):
    class Failing:
        def log(self, values: dict, step: int) -> None:
            raise ConnectionError("the server is gone")

        def finish(self) -> None:
            raise AssertionError("it was left alone after its failure")

    monkeypatch.setattr(trackers, "_started", lambda name, run: Failing())
    console = quiet()
    run_training(recipe_for(inputs, tmp_path / "run", report_to="tensorboard", epochs=1), console=console)
    assert (
        console.file.getvalue().count("tensorboard failed and gets no more metrics: the server is gone") == 1
    )
