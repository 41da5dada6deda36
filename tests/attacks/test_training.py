"""A run that learnt nothing, or that was told to stop at its last moment, does not end as if all were well."""

from __future__ import annotations

import io
import json
import os
import signal

import pytest
from rich.console import Console

from leantune.cli.main import main
from leantune.errors import DivergedError, Interrupted
from leantune.training import callbacks as observer
from leantune.training import loop, run
from leantune.training.run import run_training
from tiny import recipe_for, words_of


def test_a_run_in_which_every_step_was_skipped_is_no_success(inputs, tmp_path, capsys):
    words = words_of(inputs, tmp_path / "run", supcon_weight=1e300, warm_start=False, batch_size=48)
    assert main(["train", *words]) == 7
    said = capsys.readouterr().err
    assert "4 of 4 steps were skipped, because their gradients were not finite" in said
    record = json.loads((tmp_path / "run" / "record.json").read_text("utf-8"))
    assert record["status"] == "running"
    assert not (tmp_path / "run" / "merged").exists()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 7, "resumed, it is none either"


@pytest.mark.parametrize(("skipped", "is_refused"), [(1, False), (2, False), (3, True)])
def test_skipped_steps_are_said_and_more_than_half_are_refused(
    inputs, tmp_path, monkeypatch, skipped, is_refused
):
    """Of 4 steps, the first ones get a gradient that is not a number."""
    backward = loop._backward

    def broken(state, *arguments):
        losses = backward(state, *arguments)
        if state.step <= skipped:
            next(p for p in state.classifier.trainable().values() if p.grad is not None).grad.fill_(
                float("nan")
            )
        return losses

    monkeypatch.setattr(loop, "_backward", broken)
    console = Console(file=io.StringIO())
    recipe = recipe_for(inputs, tmp_path / "run", epochs=1, batch_size=48)
    expected = f"{skipped} of 4 steps were skipped, because their gradients were not finite"
    if is_refused:
        with pytest.raises(DivergedError, match=expected):
            run_training(recipe, console=console)
    else:
        run_training(recipe, console=console)
        assert f"warning: {expected}" in console.file.getvalue()


def test_a_run_without_skipped_steps_says_nothing_of_them(inputs, tmp_path):
    console = Console(file=io.StringIO())
    run_training(recipe_for(inputs, tmp_path / "run", epochs=1, batch_size=48), console=console)
    assert "skipped" not in console.file.getvalue()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_last_checkpoint_is_saved_is_obeyed(inputs, tmp_path, monkeypatch, number):
    save = observer.save_checkpoint
    total = 4

    def save_and_be_asked(folder, step, checkpoint):
        path = save(folder, step, checkpoint)
        if step == total:
            os.kill(os.getpid(), number)
        return path

    monkeypatch.setattr(observer, "save_checkpoint", save_and_be_asked)
    recipe = recipe_for(inputs, tmp_path / "run", epochs=1, batch_size=48)
    with pytest.raises(Interrupted, match=f"{signal.Signals(number).name} after step 4: saved") as caught:
        run_training(recipe, console=Console(file=io.StringIO()))
    assert caught.value.exit_code == 128 + number
    record = json.loads((tmp_path / "run" / "record.json").read_text("utf-8"))
    assert record["status"] == "interrupted"
    assert not (tmp_path / "run" / "merged").exists()
    monkeypatch.setattr(observer, "save_checkpoint", save)
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0


def test_the_flag_is_looked_at_after_the_signals_were_given_back(inputs, tmp_path, monkeypatch):
    """Between the last step and the end of the block there is no moment at which a signal is lost."""

    def train_and_be_asked(*arguments):
        loop.train(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run, "train", train_and_be_asked)
    with pytest.raises(Interrupted):
        run_training(
            recipe_for(inputs, tmp_path / "run", epochs=1, batch_size=48), console=Console(file=io.StringIO())
        )
