"""A classifier that travels as bytes is the same where it arrives."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from leantune.cluster.shipping import checksum_of, pack_classifier, packed_file, unpack_classifier
from leantune.errors import CheckpointError, UsageError
from leantune.inference.load import load

TEXTS = ["word1 word2 word3", "word9", "", "word17 word18 word2"]


@pytest.mark.parametrize("part", ["", "merged", "adapter"])
def test_what_arrives_predicts_the_same(run, inputs, part, tmp_path):
    content = pack_classifier(run / part)
    assert pack_classifier(run / part) == content
    folder = unpack_classifier(checksum_of(content), lambda: content, cache=tmp_path)
    there, here = load(folder), load(run / part)
    assert there.classes == here.classes
    assert there.settings == here.settings
    assert np.array_equal(there.predict_proba(TEXTS), here.predict_proba(TEXTS))


def test_an_adapter_brings_its_encoder(run, inputs, tmp_path):
    shutil.copytree(inputs / "encoder", tmp_path / "encoder")
    shutil.copytree(run / "adapter", tmp_path / "adapter")
    expected = load(run / "adapter").predict_proba(TEXTS)
    content = pack_classifier(tmp_path / "adapter", base=tmp_path / "encoder")
    shutil.rmtree(tmp_path / "encoder")
    shutil.rmtree(tmp_path / "adapter")
    folder = unpack_classifier(checksum_of(content), lambda: content, cache=tmp_path / "cache")
    assert np.array_equal(load(folder).predict_proba(TEXTS), expected)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]).is_relative_to(tmp_path / "cache")


def test_a_run_travels_without_its_checkpoints(run):
    content = pack_classifier(run)
    merged = sum(file.stat().st_size for file in (run / "merged").iterdir())
    assert merged < len(content) < merged + (run / "record.json").stat().st_size + 50_000
    assert b"checkpoints/" not in content.replace((run / "record.json").read_bytes(), b"")


def test_a_base_of_what_has_its_encoder_is_refused(run, inputs):
    with pytest.raises(UsageError, match="already contains its encoder"):
        pack_classifier(run, base=inputs / "encoder")


def test_a_damaged_run_is_not_packed(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    with (tmp_path / "run" / "merged" / "model.safetensors").open("r+b") as file:
        file.write(b"damage")
    with pytest.raises(CheckpointError, match=r"model\.safetensors has SHA-256"):
        pack_classifier(tmp_path / "run")


def test_bytes_that_changed_on_the_way_are_refused(run, tmp_path):
    content = pack_classifier(run)
    with pytest.raises(CheckpointError, match="damaged in transfer"):
        unpack_classifier(checksum_of(content), lambda: content[:-1], cache=tmp_path)
    unpack_classifier(checksum_of(content), lambda: content, cache=tmp_path)


def test_a_file_that_changed_in_the_cache_is_replaced(run, tmp_path):
    content = pack_classifier(run)
    fetched = []

    def fetch() -> bytes:
        fetched.append(1)
        return content

    folder = unpack_classifier(checksum_of(content), fetch, cache=tmp_path)
    assert unpack_classifier(checksum_of(content), fetch, cache=tmp_path) == folder
    assert len(fetched) == 1
    for damage in ("merged/model.safetensors", "record.json", "../MANIFEST.json"):
        with (folder / damage).open("r+b") as file:
            file.write(b"damage")
        unpack_classifier(checksum_of(content), fetch, cache=tmp_path)
        load(folder)
    assert len(fetched) == 4


def test_the_file_to_ship_is_what_was_packed(run, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    content = pack_classifier(run)
    file = packed_file(content)
    assert file.read_bytes() == content
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_a_cache_that_leads_elsewhere_is_refused(run, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"leantune-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="belongs to another user"):
        packed_file(b"content")


def unpack_counted(content: bytes, cache: Path, log: Path, barrier) -> None:
    def fetch() -> bytes:
        with log.open("a") as file:
            file.write("fetched\n")
        return content

    barrier.wait()
    load(unpack_classifier(checksum_of(content), fetch, cache=cache))


def test_of_processes_that_ask_at_once_one_unpacks(run, tmp_path):
    content, log = pack_classifier(run), tmp_path / "log"
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    arguments = (content, tmp_path / "cache", log, barrier)
    processes = [context.Process(target=unpack_counted, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert log.read_text() == "fetched\n"


def unpack_quietly(content: bytes, cache: Path) -> None:
    unpack_classifier(checksum_of(content), lambda: content, cache=cache)


def test_a_process_killed_while_it_unpacks_leaves_nothing_that_counts(run, tmp_path):
    shutil.copytree(run / "merged", tmp_path / "merged")
    with (tmp_path / "merged" / "large.txt").open("wb") as file:
        file.truncate(300 << 20)
    content, place = pack_classifier(tmp_path / "merged"), tmp_path / "cache"
    process = multiprocessing.get_context("fork").Process(target=unpack_quietly, args=(content, place))
    process.start()
    while not any(place.glob("*/.tmp-*")) and process.is_alive():
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert any(place.glob("*/.tmp-*")), "it ended before it could be killed"
    folder = unpack_classifier(checksum_of(content), lambda: content, cache=place)
    assert not any(place.glob("*/.tmp-*"))
    assert load(folder).predict(TEXTS) == load(run).predict(TEXTS)
