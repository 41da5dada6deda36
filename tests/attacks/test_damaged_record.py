"""A record that is cut, of another encoding, of other types or deeply nested is one line and exit 5."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attacks.crafted import BROKEN
from leantune.cli.main import main
from leantune.config.record.run import (
    BegunRecord,
    FinishedRecord,
    RunRecord,
    needed,
    read_finished_record,
    read_record,
    to_json,
)
from leantune.errors import CheckpointError
from leantune.estimator import LeanTextClassifier


@pytest.fixture(scope="module")
def copy(run, tmp_path_factory) -> Path:
    return Path(shutil.copytree(run, tmp_path_factory.mktemp("damaged") / "run"))


@pytest.fixture
def record(run) -> dict[str, Any]:
    return json.loads((run / "record.json").read_text("utf-8"))


def commands(run: Path, inputs: Path, output: Path) -> list[list[str]]:
    return [
        ["train", "--resume", str(run)],
        ["predict", str(run), "--input", str(inputs / "test.csv"), "--output", str(output / "p.csv")],
        ["evaluate", str(run), "--data", str(inputs / "test.csv")],
        ["export", str(run), "--format", "lora", "--output", str(output / "export")],
    ]


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_every_command_says_in_one_line_that_a_record_is_damaged(copy, run, inputs, tmp_path, capsys, damage):
    (copy / "record.json").write_bytes(damage((run / "record.json").read_text("utf-8")))
    for command in commands(copy, inputs, tmp_path):
        assert main(command) == 5, command
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("leantune: error: ")
        assert "record.json: damaged: " in said
        assert len(said) < 1000


OF_THE_RIGHT_TYPE: dict[str, Any] = {
    "leantune": "x",
    "run_id": "x",
    "created": "x",
    "command": [],
    "processes": 3,
    "recipe": {"a": []},  # what is in a recipe is the business of the recipe
}


@pytest.mark.parametrize("key", sorted({*needed(BegunRecord), *needed(FinishedRecord)} - {"status"}))
def test_a_part_that_is_missing_or_of_another_type_is_named(copy, inputs, record, tmp_path, capsys, key):
    command = commands(copy, inputs, tmp_path)[0 if key in needed(BegunRecord) else 1]
    for value in (None, [], "x", 3, [{}], {"a": []}):
        changed = {name: each for name, each in record.items() if name != key}
        if value is not None:
            changed[key] = value
        (copy / "record.json").write_text(json.dumps(changed), "utf-8")
        if value is not None and value == OF_THE_RIGHT_TYPE.get(key):
            continue
        assert main(command) == 5, value
        said = capsys.readouterr().err
        assert key in said
        assert "Traceback" not in said


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_in_any_place_is_read_or_refused(run, tmp_path, data):
    """Whatever stands in a place of the record, its reader gives a record of the right types or a CheckpointError."""
    record = json.loads((run / "record.json").read_text("utf-8"))
    del record["checkpoints"][1:]
    place, key = record, data.draw(st.sampled_from(sorted(record)))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(
            st.sampled_from(sorted(place)) if isinstance(place, dict) else st.integers(0, len(place) - 1)
        )
    place[key] = data.draw(
        st.sampled_from([None, [], {}, "", "x", -1, 0, 1.5, True, [[]], {"a": 1}, 10**40, float("nan")])
    )
    (tmp_path / "record.json").write_text(json.dumps(record), "utf-8")
    with contextlib.suppress(CheckpointError):
        assert isinstance(read_record(tmp_path, RunRecord), RunRecord)
        assert isinstance(read_finished_record(tmp_path).run_id, str)


def test_keys_of_a_later_version_are_passed_over(run, record, tmp_path):
    added = record | {"of a later version": [1], "labels": record["labels"] | {"colours": ["red"]}}
    (tmp_path / "record.json").write_text(json.dumps(added), "utf-8")
    assert to_json(read_record(tmp_path, RunRecord)) == record


@pytest.mark.parametrize("labels", [{}, {"names": "ab"}, {"names": [1, 2]}, {"names": ["a", "b"]}])
def test_labels_are_names_and_their_hash(copy, record, labels):
    (copy / "record.json").write_text(json.dumps(record | {"labels": labels}), "utf-8")
    with pytest.raises(CheckpointError, match=r"damaged: labels\.(names|sha256)"):
        read_finished_record(copy)


def test_a_damaged_record_in_the_way_of_an_estimator_is_an_error(tmp_path):
    (tmp_path / "record.json").write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match=r"record\.json: damaged"):
        LeanTextClassifier(output=str(tmp_path)).fit(["a", "b"], [0, 1])
