"""Records, manifests and links cannot make leantune read or write outside of the folder that they describe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.inputs import OUTSIDE
from leantune.cli.main import main
from leantune.errors import UnsafeFileError
from leantune.system.checksums import describe_file, describe_folder, find_difference
from leantune.system.file_names import entry_of, is_plain_name
from leantune.training.checkpoint import MANIFEST, Checkpoint, find_problem, save_checkpoint


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "stranger", ignore=shutil.ignore_patterns("checkpoints")))


def add_to_record(run: Path, part: str, name: str, file: Path) -> None:
    record = json.loads((run / "record.json").read_text("utf-8"))
    record["artefacts"][part]["files"][name] = describe_file(file)
    (run / "record.json").write_text(json.dumps(record), "utf-8")


def test_an_export_never_writes_beside_its_folder(copy, tmp_path, capsys):
    precious = tmp_path / "out" / "bashrc"
    precious.parent.mkdir()
    precious.write_text("mine")
    (copy / "bashrc").write_text("theirs")
    add_to_record(copy, "adapter", "../bashrc", copy / "bashrc")
    for form in ("lora", "adalora"):
        output = tmp_path / "out" / "export"
        assert main(["export", str(copy), "--format", form, "--output", str(output)]) == 4
        assert "'../bashrc' is listed as one of its files" in capsys.readouterr().err
        assert not output.exists()
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("part", ["adapter", "merged"])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_that_leads_out_is_not_copied(copy, tmp_path, capsys, part, what):
    secret = tmp_path / "secret"
    if what == "file":
        secret.write_text("key")
        (copy / part / "notes.json").symlink_to(secret)
        add_to_record(copy, part, "notes.json", secret)
    else:
        (copy / part).rename(secret)
        (copy / part).symlink_to(secret)
    form = "merged" if part == "merged" else "lora"
    assert main(["export", str(copy), "--format", form, "--output", str(tmp_path / "out")]) == 4
    assert "which is not in that folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_record_of_an_early_run_does_not_open_the_door(copy, tmp_path):
    """Without ``files`` the folder is taken as it is, which may be links."""
    record = json.loads((copy / "record.json").read_text("utf-8"))
    del record["artefacts"]["adapter"]["files"]
    (copy / "record.json").write_text(json.dumps(record), "utf-8")
    (tmp_path / "secret").write_text("key")
    (copy / "adapter" / "id_rsa").symlink_to(tmp_path / "secret")
    arguments = ["export", str(copy), "--format", "adalora", "--output", str(tmp_path / "out")]
    assert main(arguments) == 4
    assert not (tmp_path / "out").exists()


def test_predict_and_evaluate_refuse_such_a_run(copy, inputs, tmp_path):
    add_to_record(copy, "merged", "../recipe.yaml", copy / "recipe.yaml")
    rows = str(inputs / "test.csv")
    assert main(["predict", str(copy), "--input", rows, "--output", str(tmp_path / "p.csv")]) == 4
    assert main(["evaluate", str(copy), "--data", rows]) == 4


WRITTEN = (
    "run.lock",
    "record.json",
    "history.jsonl",
    "rows_to_check.jsonl",
    "report.html",
    "README.md",
    "recipe.yaml",
)


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("is_there", [True, False])
def test_no_link_in_a_run_is_written_through(run, tmp_path, name, is_there):
    copy = Path(shutil.copytree(run, tmp_path / "stranger"))
    outside = tmp_path / "bashrc"
    if is_there:
        outside.write_text((copy / name).read_text() if (copy / name).exists() else "mine")
    before = outside.read_bytes() if is_there else None
    (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to(outside)
    for command in (["train", "--resume", str(copy)], ["report", str(copy)]):
        main(command)
        assert (outside.read_bytes() if outside.exists() else None) == before
    assert main(["train", "--resume", str(copy)]) in ((2, 4) if name == "record.json" else (4,))


def test_a_manifest_of_a_checkpoint_names_plain_files(tmp_path):
    folder = save_checkpoint(tmp_path, 3, Checkpoint({"w": torch.ones(1)}, {}))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["../../x"] = manifest["files"]["state.json"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UnsafeFileError, match="expected a plain file name"):
        find_problem(folder)


def test_the_state_of_a_checkpoint_is_no_link_elsewhere(tmp_path):
    folder = save_checkpoint(tmp_path / "run", 3, Checkpoint({"w": torch.ones(1)}, {}))
    (folder / "state.json").rename(tmp_path / "elsewhere.json")
    (folder / "state.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(UnsafeFileError, match="which is not in that folder"):
        find_problem(folder)


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_is_no_plain_name_is_refused(tmp_path, name):
    with pytest.raises(UnsafeFileError, match="expected a plain file name"):
        find_difference(tmp_path, {name: {"bytes": 0, "sha256": ""}})


@given(st.text(max_size=20))
def test_a_plain_name_is_an_entry_of_its_folder(name):
    if is_plain_name(name):
        assert entry_of(Path("/a/b"), name).parent == Path("/a/b")
        assert Path("/a/b", name).name == name
    else:
        assert not name or set(name) & set("/\\\0") or name in (".", "..")


def test_links_within_a_folder_are_its_files(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to("a")
    described = describe_folder(tmp_path)
    assert described["a"] == described["b"]
    assert find_difference(tmp_path, described) is None


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UnsafeFileError):
        find_difference(tmp_path, {"a": {"bytes": 0, "sha256": ""}})
