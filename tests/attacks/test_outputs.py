"""Where predictions are written: links, devices, long names, limits; and what is never written."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from attacks.box import without_own_script
from leantune.cli.main import main
from leantune.errors import ResourceError, UnsafeFileError, UsageError
from leantune.report import write_report
from leantune.system.atomic import (
    MAX_NAME_BYTES,
    atomic_file,
    atomic_folder,
    file_to_replace,
    remove_leftovers,
)
from leantune.system.checksums import describe_file
from leantune.training.checkpoint import Checkpoint, list_checkpoints, save_checkpoint
from leantune.training.resume import newest_valid_checkpoint
from leantune.training.run import run_training
from tiny import quiet, recipe_for, words_of

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")


def predict(run: Path, inputs: Path, output: Path, *options: str) -> int:
    command = ["predict", str(run), "--input", str(inputs / "test.csv"), "--output", str(output), *options]
    return main(command)


def test_links_in_a_circle_are_no_output(run, inputs, tmp_path, capsys):
    (tmp_path / "a.csv").symlink_to("b.csv")
    (tmp_path / "b.csv").symlink_to("a.csv")
    for options in ([], ["--overwrite"]):
        assert predict(run, inputs, tmp_path / "a.csv", *options) == 2
        assert "a link that leads back to itself" in capsys.readouterr().err
    assert main(["predict", str(run), "--input", str(tmp_path / "a.csv"), "--output", "-"]) == 3


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "link to a device", "link to a pipe"])
def test_only_regular_files_are_replaced(run, inputs, tmp_path, monkeypatch, capsys, kind):
    output, node = tmp_path / "out.csv", tmp_path / "node"
    if "device" in kind:
        if os.geteuid() != 0:
            pytest.skip("only root makes devices")
        try:
            os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("no devices in this container")
    elif "pipe" in kind:
        os.mkfifo(node)
    else:
        monkeypatch.chdir(tmp_path)  # an address is short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(node.name)
    if "link" in kind:
        output.symlink_to(node)
    else:
        node.rename(output)
        node = output
    before = node.lstat()
    assert predict(run, inputs, output, "--overwrite") == 2
    assert "only regular files are replaced" in capsys.readouterr().err
    assert node.lstat().st_ino == before.st_ino
    assert node.lstat().st_mode == before.st_mode


def test_a_link_to_a_file_that_is_not_there_yet_is_followed(tmp_path):
    (tmp_path / "link").symlink_to("real")
    assert file_to_replace(tmp_path / "link") == tmp_path / "real"
    with atomic_file(tmp_path / "link") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "x"


def test_a_file_among_the_folders_of_an_output_is_named(run, inputs, tmp_path, capsys):
    (tmp_path / "file.csv").write_text("mine")
    for output in ("file.csv/x.csv", "file.csv/more/x.csv"):
        assert predict(run, inputs, tmp_path / output) == 2
        assert f"{tmp_path / 'file.csv'} is no folder; choose another name" in capsys.readouterr().err


@pytest.mark.parametrize("length", [200, 215, 240, 255])
@pytest.mark.parametrize("letter", ["x", "é", "語"])
def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path, length, letter):
    name = (letter * length).encode()[: length - 4].decode("utf-8", "ignore") + ".csv"
    for _ in range(2):
        with atomic_file(tmp_path / name) as temporary:
            temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    folder = tmp_path / "in" / name
    for _ in range(2):
        with atomic_folder(folder) as temporary:
            (temporary / "file").write_text("whole")
    assert (folder / "file").read_text() == "whole"
    assert len(os.fsencode(name)) <= MAX_NAME_BYTES


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from leantune.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_predictions_above_the_limit_of_a_file_are_a_full_disk(run, inputs, tmp_path, suffix):
    command = [
        "predict",
        str(run),
        "--input",
        str(inputs / "test.csv"),
        "--output",
        str(tmp_path / f"o.{suffix}"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.format(limit=300), *command],
        env={**os.environ, "LEANTUNE_NATIVE": "0"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 6, done.stderr
    assert f"cannot write {tmp_path / f'o.{suffix}'}: the file would be larger than is allowed" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_above_the_limit_of_a_file_is_a_full_disk(inputs, tmp_path, monkeypatch):
    code = "from leantune.training import checkpoint; checkpoint.RETRY_PAUSES_S = (0.0,)\n"
    done = subprocess.run(
        [sys.executable, "-c", code + LIMITED.format(limit=20_000), "train", *words_of(inputs, tmp_path / "run")],
        env={**os.environ, "LEANTUNE_NATIVE": "0", "LEANTUNE_CACHE": str(tmp_path / "cache")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 6, done.stderr
    assert "the file would be larger than is allowed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error", [OSError(errno.EFBIG, "File too large"), RuntimeError("I/O error (os error 27)")]
)
def test_both_kinds_of_that_error_are_understood(tmp_path, error):
    assert errno.EFBIG == 27
    with pytest.raises(ResourceError, match="larger than is allowed"), atomic_file(tmp_path / "file"):
        raise error


def test_a_prediction_that_is_no_number_names_its_row(run, inputs, tmp_path, capsys):
    copy = Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints")))
    weights = copy / "merged" / "model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    tensors[name][5 + 17] = torch.nan  # the word word17, of class c
    safetensors.torch.save_file(tensors, weights, metadata={"format": "pt"})
    record = json.loads((copy / "record.json").read_text())
    record["artefacts"]["merged"]["files"]["model.safetensors"] = describe_file(weights)
    (copy / "record.json").write_text(json.dumps(record))
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\nword1 word2,a\nword17,b\n")
    for output in ("p.csv", "p.parquet"):
        code = main(["predict", str(copy), "--input", str(rows), "--output", str(tmp_path / output)])
        assert code == 5
        assert "row 1 (counted from 0): the prediction is not a number" in capsys.readouterr().err
        assert not (tmp_path / output).exists()
    assert main(["evaluate", str(copy), "--data", str(rows)]) == 5


def test_checkpoints_that_are_elsewhere_are_not_cleaned(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / ".tmp-precious").mkdir(parents=True)
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").symlink_to(elsewhere)
    for attempt in (
        lambda: newest_valid_checkpoint(run, quiet()),
        lambda: list_checkpoints(run),
        lambda: save_checkpoint(run, 1, Checkpoint({"w": torch.ones(1)}, {})),
    ):
        with pytest.raises(UnsafeFileError, match="which is not in that folder"):
            attempt()
    assert [path.name for path in elsewhere.iterdir()] == [".tmp-precious"]


def test_a_leftover_that_is_a_link_goes_without_what_it_links_to(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".tmp-link").symlink_to(tmp_path / "precious")
    assert remove_leftovers(tmp_path / "run") == [".tmp-link"]
    assert (tmp_path / "precious").is_dir()


HOSTILE = (
    "<script>alert('x')</script>",
    "</p></li></ul></section></main><img src=x onerror=alert(1)>",
    "</style><style>body{display:none}",
    "{{ run.record }} {% include '/etc/passwd' %} ${body}",
    "\x1b[31mred\u202egnp.exe\u2066",
    "<!-- &amp; &lt;script&gt; ]]>",
    "x" * 100_000,
)


def test_texts_of_the_data_are_inert_in_the_report(inputs, tmp_path):
    rows = tmp_path / "rows.csv"
    with rows.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(
            140
        ):  # of labels that no text explains, so that all texts are among the wrong predictions
            writer.writerow([f"{HOSTILE[i % len(HOSTILE)]} {i}", "<b>" if (i // 7 * 31) % 3 else "</title>"])
    recipe = recipe_for(inputs, tmp_path / "run", data=str(rows), test=None, epochs=1, validation_size=60)
    folder = run_training(recipe, console=quiet())
    kept = (folder / "rows_to_check.jsonl").read_text("utf-8")
    page = without_own_script(write_report(folder).read_text("utf-8"))
    assert len(kept) < 100_000
    assert len(page) < 1_000_000
    assert not re.search(r"<(script|img|b>|!--)", page)
    assert page.count("</title>") == 1 + page.count("<svg"), "the page's own, and one of each drawing"
    assert page.count("<style>") == page.count("</style>") == 1
    assert not set("\x1b\u202e\u2066") & set(page)
    section = page.partition('<section id="wrong"')[2].partition("</section>")[0]
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in section
    assert "{{ run.record }}" in section
    assert r"\x1b[31mred\u202egnp.exe\u2066" in section
    assert "x" * 299 + "…" in section
    assert "x" * 300 not in page


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="a folder; only regular files are replaced"):
        file_to_replace(tmp_path)
