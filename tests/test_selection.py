"""The best stay, whatever their age."""

from __future__ import annotations

import json

import torch
from hypothesis import given
from hypothesis import strategies as st

from leantune.evaluation.intervals import Z_95, wilson_interval
from leantune.training.checkpoint import (
    MANIFEST,
    TENSORS,
    Checkpoint,
    checkpoint_path,
    find_problem,
    list_checkpoints,
    save_checkpoint,
    valid_checkpoints,
)
from leantune.training.selection import Evaluation, Selection

NUM_ROWS = 1000
"""Of validation: the standard error of 90 % is 0.95 points."""


def evaluated(step: int, accuracy: float, log_loss: float = 1.0, is_eligible: bool = True) -> Evaluation:
    interval = wilson_interval(round(accuracy * NUM_ROWS), NUM_ROWS).to_json()
    metrics = {"accuracy": accuracy, "accuracy_interval": interval, "log_loss": log_loss}
    return Evaluation(step, step / 10, metrics, is_eligible)


def test_the_best_are_kept_not_the_newest(tmp_path):
    selection = Selection("accuracy", keep_best=2)
    for step, accuracy in ((1, 0.99), (2, 0.7), (3, 0.9), (4, 0.8), (5, 0.6), (6, 0.5)):
        save_checkpoint(tmp_path, step, Checkpoint({"w": torch.ones(1)}, {}))
        selection.evaluations.append(evaluated(step, accuracy, is_eligible=step > 1))
        selection.clean(tmp_path)
    assert [e.step for e in selection.ranking()[:2]] == [3, 4]
    assert list(list_checkpoints(tmp_path)) == [3, 4, 5, 6]


def test_a_tie_goes_to_the_lower_log_loss_then_to_the_earlier_step():
    evaluations = [evaluated(1, 0.9, 0.5), evaluated(2, 0.9, 0.4), evaluated(3, 0.9, 0.4)]
    selection = Selection("accuracy", 1, evaluations, "best")
    assert [e.step for e in selection.ranking()] == [2, 3, 1]
    assert selection.since_best() == 2  # the metric itself has not moved since the first


def test_of_those_within_a_standard_error_of_the_best_the_last_is_chosen():
    evaluations = [evaluated(1, 0.902), evaluated(2, 0.895), evaluated(3, 0.888)]
    assert [e.step for e in Selection("accuracy", 1, evaluations, "best").ranking()] == [1, 2, 3]
    selection = Selection("accuracy", 1, evaluations, "one-se")
    assert [e.step for e in selection.ranking()] == [2, 1, 3]
    assert selection.since_best() == 2  # early stopping waits for a better one, not for one as good
    better = [*evaluations, evaluated(4, 0.92)]
    assert [e.step for e in Selection("accuracy", 1, better, "one-se").ranking()] == [4, 1, 2, 3]


@given(
    st.lists(st.tuples(st.integers(0, NUM_ROWS), st.floats(0, 3), st.booleans()), min_size=1, max_size=12),
    st.sampled_from(["accuracy", "log_loss"]),
    st.sampled_from(["best", "one-se"]),
)
def test_the_chosen_checkpoint_is_near_the_best_and_was_never_removed(measured, metric, rule):
    selection = Selection(metric, 1, [], rule)
    kept: set[int] = set()
    for step, (num_right, log_loss, is_eligible) in enumerate(measured, start=1):
        selection.evaluations.append(evaluated(step, num_right / NUM_ROWS, log_loss, is_eligible))
        kept = selection.kept_steps() & (kept | {step})
    eligible = [e for e in selection.evaluations if e.is_eligible]
    assert sorted(e.step for e in selection.ranking()) == [e.step for e in eligible]
    assert kept == {e.step for e in selection.ranking()[:1]}
    if eligible:
        chosen = selection.ranking()[0].metrics
        if metric == "log_loss":
            assert chosen["log_loss"] == min(e.metrics["log_loss"] for e in eligible)
        else:
            best = max(eligible, key=lambda e: e.metrics["accuracy"]).metrics
            low, high = best["accuracy_interval"]
            standard_error = (high - low) / (2 * Z_95) if rule == "one-se" else 0
            assert best["accuracy"] - standard_error <= chosen["accuracy"] <= best["accuracy"]


def test_log_loss_is_better_when_lower():
    selection = Selection("log_loss", 1, [evaluated(1, 0.9, 0.5), evaluated(2, 0.8, 0.4)])
    assert selection.kept_steps() == {2}


def test_checkpoints_are_ordered_by_number_not_by_text_or_time(tmp_path):
    for step in (1_000_000, 900, 1000):
        save_checkpoint(tmp_path, step, Checkpoint({"w": torch.ones(1)}, {}))
    assert list(list_checkpoints(tmp_path)) == [900, 1000, 1_000_000]


def test_a_checkpoint_is_valid_only_whole_and_unchanged(tmp_path):
    tensors = {"w": torch.arange(6.0)}
    folder = save_checkpoint(tmp_path, 7, Checkpoint(tensors, {"a": 1}))
    assert folder == checkpoint_path(tmp_path, 7)
    assert find_problem(folder) is None
    ((step, found),) = valid_checkpoints(tmp_path, [7], print)
    assert step == 7
    assert torch.equal(found.tensors["w"], tensors["w"])

    whole = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(whole[:-1])
    assert find_problem(folder) == f"{TENSORS} has {len(whole) - 1} bytes, expected {len(whole)}"
    (folder / TENSORS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "SHA-256" in find_problem(folder)
    (folder / TENSORS).unlink()
    assert find_problem(folder) == f"{TENSORS} is missing"
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    del manifest["files"][TENSORS]
    (folder / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    assert find_problem(folder) == f"{TENSORS} is missing in {MANIFEST}"
    (folder / MANIFEST).write_text("{")
    assert find_problem(folder) == f"{MANIFEST} is not readable"
    (folder / MANIFEST).unlink()
    assert find_problem(folder) == f"no {MANIFEST}"
