"""After any fault the last good state is there, whole, and leantune has said what happened.

CI tries a sample; ``LEANTUNE_ALL_FAULTS=1 pytest tests/faults`` tries all.
"""

from __future__ import annotations

from collections import Counter

import pytest

OPERATIONS = (
    "save a checkpoint",
    "save over a damaged checkpoint",
    "remove old checkpoints",
    "publish",
    "publish over an older one",
    "publish without renameat2",
    "write the record",
    "export adalora",
    "export lora",
    "export merged",
    "predict to csv",
    "predict to jsonl",
    "predict to parquet",
)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_is_lost_and_nothing_is_half_written(faults, operation):
    of_operation = [fault for fault in faults if fault["scenario"] == operation]
    assert {fault["mode"] for fault in of_operation} >= {"EIO", "kill", "power cut"}
    problems = [fault for fault in of_operation if fault["problem"]]
    assert not problems, "\n".join(
        f"{fault['mode']} at call {fault['point']} ({fault['call']}): {fault['problem']}"
        for fault in problems[:10]
    )


@pytest.mark.parametrize(
    ("control", "modes"),
    [
        ("control: in place", {"disk full", "EIO", "short write", "kill", "torn write", "power cut"}),
        ("control: not flushed", {"power cut"}),
    ],
)
def test_careless_writing_would_be_found(faults, control, modes):
    """The rig sees what is lost when a file is written in place, or renamed before it is flushed."""
    found = {fault["mode"] for fault in faults if fault["scenario"] == control and fault["problem"]}
    assert found & modes


def test_the_faults_reach_every_kind_of_call(faults):
    calls = Counter(fault["call"].partition(" ")[0] for fault in faults)
    assert {"write", "fsync", "open", "mkdir"} <= calls.keys()


def test_a_disk_that_fails_for_good_is_reported(faults):
    """Not every operation survives: that would mean that the faults miss it."""
    full = [fault for fault in faults if fault["mode"] == "disk full" and not fault["is_control"]]
    assert sum(fault["exit_code"] == 6 for fault in full) > len(full) / 2
