"""Folders of a run that somebody changed, checksums included, are exit 5 (or 4) in one line, before any use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attacks.crafted import ADAPTER, MERGED, STATES, change_json, rehash
from leantune.cli.main import main
from leantune.errors import CheckpointError
from leantune.inference.multi_adapter import SharedEncoder
from leantune.system.checksums import describe_file
from leantune.training.checkpoint import MANIFEST, STATE, TENSORS, find_problem, list_checkpoints


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "stranger"))


def said_once(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("leantune: error: ")]
    assert len(lines) == 1
    assert len(lines[0]) < 1500
    return lines[0]


@pytest.mark.parametrize("name", MERGED)
def test_a_changed_model_is_damage(copy, inputs, tmp_path, capsys, name):
    MERGED[name](copy)
    rehash(copy)
    expected = 4 if name == "code" else 5
    command = ["predict", str(copy), "--input", str(inputs / "test.csv"), "--output", str(tmp_path / "p.csv")]
    assert main(command) == expected
    said_once(capsys)
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("name", ADAPTER)
def test_a_changed_adapter_is_damage(copy, inputs, tmp_path, capsys, name):
    ADAPTER[name](copy)
    rehash(copy)
    for form in ("lora", "adalora"):
        assert main(["export", str(copy), "--format", form, "--output", str(tmp_path / "out")]) == 5
        said_once(capsys)
        assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError):
        SharedEncoder(inputs / "encoder").load("x", copy)


@pytest.mark.parametrize("name", STATES)
def test_a_changed_state_of_a_checkpoint_is_damage(copy, capsys, name):
    for folder in list_checkpoints(copy).values():
        (folder / STATE).write_bytes(STATES[name])
        change_json(
            folder / MANIFEST, files={each: describe_file(folder / each) for each in (TENSORS, STATE)}
        )
        assert find_problem(folder) is None
    assert main(["train", "--resume", str(copy)]) == 5
    said_once(capsys)


@pytest.mark.parametrize(
    "files",
    [None, [], "x", {"state.json": None}, {"state.json": []}, {"state.json": {"bytes": "9", "sha256": 3}}],
)
def test_a_changed_manifest_is_no_checkpoint(copy, files):
    folder = next(iter(list_checkpoints(copy).values()))
    change_json(folder / MANIFEST, files=files)
    assert find_problem(folder) == "MANIFEST.json is not readable"


@pytest.mark.parametrize(
    "content", ["[]", "{}", "", "[" * 100_000, '{"run_id": 3}', '{"run_id": "x", "files": []}']
)
def test_a_changed_description_of_an_export_is_damage(copy, inputs, tmp_path, capsys, content):
    (copy / "openvino").mkdir()
    (copy / "openvino" / "export.json").write_text(content)
    command = ["predict", str(copy), "--input", str(inputs / "test.csv"), "--output", str(tmp_path / "p.csv")]
    assert main([*command, "--engine", "openvino"]) == 5
    assert "export again with" in said_once(capsys)
