"""tests/CATALOGUE.md names only tests that exist, and small items of the catalogue that no other file tests."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from leantune.adalora.adapter_file import AdapterFile, merge_into
from leantune.adalora.triplets import Triplets
from leantune.cli.main import main
from leantune.config import Recipe
from leantune.config.record.run import DataRecord, Labels, RowsRecord
from leantune.data.labels import LabelMap
from leantune.data.text.read import Columns, open_examples
from leantune.errors import CheckpointError, DistributedError, UnsafeFileError, UsageError
from leantune.evaluation.agreement import check_logits
from leantune.system import distributed
from leantune.system.lock import run_lock
from leantune.training.before.folder import clear_run
from leantune.training.checkpoint import MANIFEST, Checkpoint, find_problem, save_checkpoint
from leantune.training.resume import check_same_run, newest_valid_checkpoint
from leantune.training.run import _go_on
from leantune.training.signals import interruptible
from tiny import quiet

ROOT = Path(__file__).parents[1]
CATALOGUE = (ROOT / "tests" / "CATALOGUE.md").read_text("utf-8")
NUM_ITEMS = {"C": 26, "T": 18, "D": 35, "L": 8, "P": 42}


def test_the_catalogue_names_only_tests_that_exist():
    named = re.findall(r"`((?:tests|benchmarks)/[\w/]+\.(?:py|tsv))(?:::(\w+))?`", CATALOGUE)
    assert len(named) > 100
    for path, name in named:
        assert (ROOT / path).is_file(), path
        assert not name or f"def {name}(" in (ROOT / path).read_text("utf-8"), f"{path}::{name}"
    golden = (ROOT / "tests/bad_input/golden.tsv").read_text("utf-8").splitlines()
    rows = re.findall(r"`golden:([a-z][\w-]+)`", CATALOGUE)
    assert rows
    assert set(rows) <= {line.partition("\t")[0] for line in golden}


def test_every_item_has_one_row():
    ids = re.findall(r"^\| ([CTDLP]\d\d) \|", CATALOGUE, re.MULTILINE)
    assert ids == [f"{part}{i:02}" for part, count in NUM_ITEMS.items() for i in range(1, count + 1)]


def test_only_partial_checkpoints_are_an_error_that_names_each(tmp_path):
    (save_checkpoint(tmp_path, 3, Checkpoint({"w": torch.ones(1)}, {})) / MANIFEST).unlink()
    console = quiet()
    with pytest.raises(CheckpointError, match="no valid checkpoint to resume from"):
        _go_on(SimpleNamespace(folder=tmp_path, console=console), None, None)
    assert f"skipped step-000003: no {MANIFEST}" in console.file.getvalue()


def test_resume_names_every_difference():
    part = RowsRecord(source="x.csv", sha256="0", rows=1, tokens=1, label_counts={})
    record = SimpleNamespace(
        data=DataRecord(train=part, validation=part),
        labels=Labels(names=["a", "c"], sha256="0"),
        parameters=SimpleNamespace(initial=1, head=2),
        recipe={**Recipe(data="x.csv", model="m").to_dict(), "epochs": 3},
    )
    expected = r"labels: were \['a', 'c'\], are \['a', 'b'\]; initial parameters: were 1, are 7; epochs: was 3, is 5$"
    with pytest.raises(CheckpointError, match=expected):
        check_same_run(
            record,
            recipe=Recipe(data="x.csv", model="m", output="moved", epochs=5),
            data=record.data,
            labels=LabelMap(("a", "b")),
            plan=SimpleNamespace(initial=7, head=2),
        )


def test_the_second_signal_has_its_usual_force():
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with interruptible() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.signal_number == signal.SIGTERM
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("words", [[], ["epochs=3"], ["--epochs", "3"]])
def test_resume_takes_an_existing_run_and_nothing_else(tmp_path, capsys, words):
    assert main(["train", *words, "--resume", str(tmp_path / "none")]) == 2
    expected = "remove the other" if words else "no run to resume"
    assert expected in capsys.readouterr().err


def test_a_run_is_cleared_without_the_files_of_others(tmp_path):
    save_checkpoint(tmp_path, 3, Checkpoint({"w": torch.ones(1)}, {}))
    exports = ["openvino", "openvino-int8", "export-adalora", "export-lora", "export-merged"]
    for name in ["adapter", "merged", *exports, "export-of-mine"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("precious")
    clear_run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export-of-mine", "notes.txt"]


def test_a_checkpoint_of_a_newer_format_is_named(tmp_path):
    folder = save_checkpoint(tmp_path, 3, Checkpoint({"w": torch.ones(1)}, {}))
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": 2}))
    assert find_problem(folder) == "written in format 2, this leantune reads 1"
    assert newest_valid_checkpoint(tmp_path, quiet()) is None


def test_a_folder_that_may_not_be_written_is_named(tmp_path, monkeypatch):
    def mkdir(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with (
        pytest.raises(UsageError, match="Permission denied; choose another folder"),
        run_lock(tmp_path / "a"),
    ):
        pass


def test_a_merged_weight_that_is_not_finite_is_named():
    triplets = Triplets(torch.full((1, 2), torch.nan), torch.ones(1, 1), torch.ones(2, 1))
    adapter = AdapterFile({"layer": triplets}, {}, (), "base", 1, 1.0, {})
    with pytest.raises(CheckpointError, match="layer: the merged weight is not finite"), torch.no_grad():
        merge_into({"layer.weight": torch.zeros(2, 2)}, adapter)


def test_an_artefact_that_computes_something_else_is_not_published():
    assert check_logits("merged", np.ones((1, 2)), np.ones((1, 2))) == 0
    for other in (1.001, np.nan):
        with pytest.raises(CheckpointError, match=r"merged: .* it was not written"):
            check_logits("merged", np.array([[1, other]]), np.ones((1, 2)))


def test_a_step_between_allocations_must_be_positive(capsys):
    assert main(["train", "data=x.csv", "model=m", "allocate_every=0"]) == 2
    assert "allocate_every must be" in capsys.readouterr().err


def test_processes_that_disagree_are_named(monkeypatch):
    monkeypatch.setattr(distributed, "gather", lambda value: [value, "another"])
    with pytest.raises(DistributedError, match=r"the rank pattern differs .* rank 1: another") as caught:
        distributed.check_agreement("the rank pattern", "one")
    assert caught.value.exit_code == 8


def test_predict_says_how_many_texts_were_cut_or_empty(run, tmp_path, capsys):
    (tmp_path / "new.csv").write_text(f'text,x\nword1,1\n" ",1\n{"word2 " * 99},1\n', "utf-8")
    output = tmp_path / "out.csv"
    assert main(["predict", str(run), "--input", str(tmp_path / "new.csv"), "--output", str(output)]) == 0
    assert "3 rows to" in (line := capsys.readouterr().err)
    assert "(1 truncated to 32 tokens, 1 without text)" in line
    assert len(output.read_text("utf-8").splitlines()) == 4


@pytest.mark.parametrize(
    ("limit", "unit"),
    [("data.text.readers.pickles.MAX_BYTES", "bytes"), ("pickle_tables.opcodes.MAX_OPCODES", "opcodes")],
)
def test_a_pickle_beyond_a_limit_is_refused(tmp_path, monkeypatch, limit, unit):
    (tmp_path / "rows.pkl").write_bytes(pickle.dumps({"text": [f"text {i}" for i in range(20)]}))
    monkeypatch.setattr(f"leantune.{limit}", 20)
    with pytest.raises(UnsafeFileError, match=f"more than 20 {unit}"):
        open_examples(str(tmp_path / "rows.pkl"), Columns(), labels="ignore")
