"""What a run promises about its folder, its record, its disk and its memory."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from leantune.cli.main import main
from leantune.cli.process import exit_code_of
from leantune.errors import ResourceError, UsageError
from leantune.model.classifier import Classifier
from leantune.system import distributed
from leantune.system.atomic import explained_disk_errors
from leantune.system.lock import LOCK, run_lock
from leantune.training.before import head_init as warm_start
from leantune.training.checkpoint import list_checkpoints
from leantune.training.resume import newest_valid_checkpoint
from leantune.training.run import run_training
from tiny import quiet, recipe_for, words_of

sys.path.append(str(Path(__file__).parents[1]))  # the benchmarks are no part of the package

from benchmarks.reliability.chain import Chain

HOLDER = """
import sys, time
from pathlib import Path
from leantune.system.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of ``tmp_path/run``."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_in_one_folder_is_refused_with_the_name_of_the_first(inputs, tmp_path, holder, capsys):
    words = [f"data={inputs / 'train.csv'}", f"model={inputs / 'encoder'}", f"output={tmp_path / 'run'}"]
    assert main(["train", *words, "--overwrite"]) == 2
    assert f"process {holder.pid} on {os.uname().nodename} is using this folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK).exists()
    with run_lock(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert (tmp_path / "run").exists(), "the folder was there before"
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_lock_file_that_was_removed_is_no_lock(tmp_path):
    """The holder ends between the look at the file and the lock on it: the next one makes a new file."""
    with run_lock(tmp_path / "run"):
        (tmp_path / "run" / LOCK).unlink()
        with run_lock(tmp_path / "run"):
            assert (tmp_path / "run" / LOCK).exists()


@pytest.fixture
def exported(run, tmp_path) -> Path:
    """A finished run with an export in it, that a test may replace."""
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    for form in ("lora", "merged"):
        assert main(["export", str(folder), "--format", form]) == 0
    return folder


def test_another_run_in_the_folder_takes_the_exports_with_it(inputs, exported):
    """They would be of another model; what has a name of the user's own stays."""
    (exported / "export-lora").rename(exported / "lora for Ada")
    assert main(["train", *words_of(inputs, exported), "--overwrite"]) == 0
    names = {path.name for path in exported.iterdir()}
    assert "lora for Ada" in names
    assert not {"export-lora", "export-merged"} & names


def test_a_run_that_cannot_start_leaves_the_earlier_one_and_its_exports(
    inputs, exported, tmp_path, monkeypatch
):
    before = {path: path.read_bytes() for path in exported.rglob("*") if path.is_file()}
    (tmp_path / "bad.csv").write_text("text\nword1\n")
    words = words_of(inputs, exported, data=str(tmp_path / "bad.csv"))
    assert main(["train", *words, "--overwrite"]) == 3
    assert main(["train", *words_of(inputs, exported, max_trainable_params=1), "--overwrite"]) == 2
    encoder = Path(shutil.copytree(inputs / "encoder", tmp_path / "encoder"))
    weights = load_file(encoder / "model.safetensors")
    del weights["encoder.layer.0.attention.self.query.weight"]  # its config and its header are fine
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    assert main(["train", *words_of(inputs, exported, model=str(encoder)), "--overwrite"]) == 5
    monkeypatch.setattr(warm_start, "map_rows", lambda *args: torch.empty(1 << 60))  # more than there is
    assert main(["train", *words_of(inputs, exported), "--overwrite"]) == 6
    assert {path: path.read_bytes() for path in exported.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("key", "name"), [("model", "export-merged"), ("model", "merged"), ("data", "adapter")]
)
def test_a_run_does_not_remove_what_it_reads(inputs, exported, capsys, key, name):
    words = words_of(inputs, exported, **{key: str(exported / name)})
    assert main(["train", *words, "--overwrite"]) == 2
    assert f"{key}={exported / name}: is in output {exported}, where a new run replaces it" in (
        capsys.readouterr().err
    )
    assert (exported / name).is_dir()
    assert (exported / "record.json").is_file()


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
@pytest.mark.parametrize("name", ["README.md", "recipe.yaml", "adapter/a.txt", "checkpoints/old/w.bin"])
def test_files_that_no_run_wrote_stay(inputs, tmp_path, capsys, name, options):
    own = tmp_path / "project" / name
    own.parent.mkdir(parents=True)
    own.write_text("precious")
    assert main(["train", *words_of(inputs, tmp_path / "project"), *options]) == 2
    first = Path(name).parts[0]
    assert f"has '{first}' and no record.json, so it is not a run folder" in capsys.readouterr().err
    assert own.read_text() == "precious"


def test_no_output_is_not_the_current_folder(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*words_of(inputs, tmp_path / "run"), "output="]
    assert main(["train", *words]) == 2
    assert "output must be a folder. Got nothing instead" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("in_the_way", ["out", "out/below"])
def test_a_file_where_the_folder_should_be_is_named(inputs, tmp_path, in_the_way):
    (tmp_path / "out").write_text("precious")
    with pytest.raises(UsageError, match="choose another folder"):
        run_training(recipe_for(inputs, tmp_path / in_the_way), console=quiet())
    assert (tmp_path / "out").read_text() == "precious"


def test_low_disk_is_told_at_the_start(inputs, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    console = quiet()
    run_training(recipe_for(inputs, tmp_path / "run", epochs=1), console=console)
    assert "warning: 0 MiB are free for " in console.file.getvalue()


def test_enough_disk_is_not_talked_about(inputs, tmp_path):
    console = quiet()
    run_training(recipe_for(inputs, tmp_path / "run", epochs=1), console=console)
    assert "MiB" not in console.file.getvalue()


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"batch_size": 16}, "accumulate=2 takes the same steps in smaller pieces, batch_size=8 smaller"),
        ({"batch_size": 2, "accumulate": 2}, "max_length=16 cuts the texts"),
    ],
)
def test_out_of_memory_names_the_keys_and_a_smaller_batch(inputs, tmp_path, monkeypatch, changes, advice):
    monkeypatch.setattr(Classifier, "batch_of", lambda classifier, rows: torch.empty(1 << 60))
    with pytest.raises(ResourceError, match="out of memory with batch_size=") as caught:
        run_training(recipe_for(inputs, tmp_path / "run", warm_start=False, **changes), console=quiet())
    assert advice in str(caught.value)
    assert "max_length=32" in str(caught.value)


def test_a_full_disk_is_tried_again_and_the_old_checkpoint_stays(inputs, tmp_path, monkeypatch):
    """The disk has room again after a while: training goes on to the end."""
    from leantune.training import checkpoint

    original, failures = checkpoint._save_once, iter([1, 2])

    def save_once(run: Path, step: int, saved: checkpoint.Checkpoint) -> Path:
        if step == 12 and next(failures, None):
            raise ResourceError("cannot write: no space left")
        return original(run, step, saved)

    pauses: list[float] = []
    monkeypatch.setattr(checkpoint, "_save_once", save_once)
    monkeypatch.setattr(checkpoint.time, "sleep", pauses.append)
    run = run_training(recipe_for(inputs, tmp_path / "run", epochs=2), console=quiet())
    assert pauses == list(checkpoint.RETRY_PAUSES_S[:2])
    assert 12 in list_checkpoints(run)


def test_a_disk_that_fails_anywhere_is_one_line(capsys):
    def write_history() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/history.jsonl")

    assert exit_code_of(write_history) == 6
    assert capsys.readouterr().err == "leantune: error: run/history.jsonl: no space left\n"

    def look() -> None:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), "run")

    assert exit_code_of(look) == 2
    assert capsys.readouterr().err == "leantune: error: run: Too many levels of symbolic links\n"
    with pytest.raises(UsageError) as caught:
        exit_code_of(look, debug=True)
    assert isinstance(caught.value.__cause__, OSError)


def test_of_several_processes_only_the_main_one_cleans_up(tmp_path, monkeypatch):
    """Two that remove the same folder trip over each other."""
    leftover = tmp_path / "checkpoints" / ".tmp-1-step-000003"
    leftover.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "rank", lambda: 1)
        assert newest_valid_checkpoint(tmp_path, quiet()) is None
        assert leftover.exists()
    assert newest_valid_checkpoint(tmp_path, quiet()) is None
    assert not leftover.exists()


def test_the_record_follows_its_published_schema(run, inputs, tmp_path):
    schema = json.loads((resources.files("leantune.config.record") / "record.schema.json").read_text("utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    refitted = run_training(
        recipe_for(inputs, tmp_path / "run", epochs=1, refit=True, test=None, warm_start=False),
        console=quiet(),
    )

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    for folder in (run, refitted):
        record = json.loads((folder / "record.json").read_text("utf-8"), parse_constant=no_constant)
        assert [error.message for error in validator.iter_errors(record)] == []
        assert not validator.is_valid({**record, "labels": {"names": ["a"], "sha256": "0"}})
        assert not validator.is_valid({**record, "artefacts": None})
        del record["artefacts"]
        assert not validator.is_valid(record), "a finished run has artefacts"


def test_equal_texts_are_counted_and_told(inputs, tmp_path):
    rows = list(csv.reader((inputs / "train.csv").read_text("utf-8").splitlines()))
    header, (text, label), *rest = rows
    other = next(name for name in "abc" if name != label)
    with (tmp_path / "train.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, [text, label], *rest, [text, label], [text, other]])
    with (tmp_path / "test.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rest[:5], ["word1 " * 200, "a"], ["word1 " * 201, "a"]])
    with (tmp_path / "validation.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rest[3:20]])
    console = quiet()
    recipe = recipe_for(
        inputs, tmp_path / "run", epochs=1, warm_start=False,
        data=str(tmp_path / "train.csv"), validation=str(tmp_path / "validation.csv"),
        test=str(tmp_path / "test.csv"),
    )  # fmt: skip
    record = json.loads((run_training(recipe, console=console) / "record.json").read_text("utf-8"))
    texts = [each for each, _ in rows[1:]]
    train, test = record["data"]["train"], record["data"]["test"]
    assert train["duplicate_rows"] == len(texts) + 2 - len(set(texts))
    assert train["conflicting_rows"] == 3
    assert test["rows_also_in_train"] == 5
    assert test["rows_also_in_validation"] == 2
    assert record["data"]["validation"]["rows_also_in_train"] == 17
    assert test["duplicate_rows"] == 0, "texts that differ after the cut are not equal"
    assert "3 rows whose text also has another label" in console.file.getvalue()


def test_counts_of_repeats_are_those_of_a_plain_count():
    from leantune.training.before.dataset import count_repeats

    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 60, 200).astype(np.uint64)
    label_ids = rng.integers(0, 2, 200)
    labels_of = {h: {int(y) for g, y in zip(hashes, label_ids, strict=True) if g == h} for h in hashes}
    assert count_repeats(hashes, label_ids) == {
        "duplicate_rows": 200 - len(labels_of),
        "conflicting_rows": sum(len(labels_of[h]) > 1 for h in hashes),
    }


@pytest.mark.long
def test_killed_in_a_save_and_while_publishing_it_ends_with_the_same_bits(tmp_path):
    """A short form of ``python -m benchmarks.reliability.kills``."""
    from benchmarks.inputs import make_tiny_inputs
    from benchmarks.reliability.chain import reference

    make_tiny_inputs(tmp_path / "inputs")
    expected = reference(tmp_path, 1)
    chain = Chain(0, 1, tmp_path / "inputs", tmp_path / "chain")
    aims = (("pruning", True), ("publishing", True))
    kills = [chain.kill_in(phase, in_save=in_save) for phase, in_save in aims]
    chain.finish()
    assert any(kills), "it ended before any kill"
    assert chain.fingerprint() == expected


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("run/out/file", "cannot write .*out: permission denied .*MiB free"),
        ("run/.tmp-1-out/file", "cannot write .*out: permission denied .*MiB free"),
        ("run", "cannot write .*out: permission denied .*MiB free"),
        ("run/merged/model.safetensors", "merged/model.safetensors: permission denied$"),
        ("elsewhere/file", "elsewhere/file: permission denied$"),
    ],
)
def test_a_file_that_cannot_be_read_is_not_called_the_output(tmp_path, place, said):
    with pytest.raises(ResourceError, match=said), explained_disk_errors(tmp_path / "run" / "out"):
        raise PermissionError(errno.EACCES, "permission denied", str(tmp_path / place))
