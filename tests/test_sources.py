"""Models by folder, asset and hub name; the hub cache is laid out by hand, the network is absent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leantune.assets.download import ASSETS
from leantune.errors import UsageError
from leantune.model.hub import HUB_NAMES, public_name, resolve_model

RESOLVE = "from leantune.model.hub import resolve_model; print(resolve_model('someone/encoder'))"


def resolve(cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RESOLVE],
        env={**os.environ, "HF_HUB_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "models--someone--encoder"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text("{}")
    return tmp_path


def test_a_folder_is_itself(tmp_path):
    assert resolve_model(str(tmp_path)) == str(tmp_path)


def test_a_cached_hub_model_is_found_offline(cache):
    done = resolve(cache, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("0" * 40)


def test_a_cached_hub_model_serves_when_the_hub_does_not_answer(cache):
    started = time.monotonic()
    done = resolve(cache, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 30  # no chain of retries


def test_a_model_that_nobody_has_is_one_line(tmp_path, monkeypatch):
    done = resolve(tmp_path, HF_HUB_OFFLINE="1")
    assert "UsageError: model someone/encoder: no such folder, the hub did not provide it" in done.stderr
    assert "(HF_HUB_OFFLINE is on), and it is not in the cache" in done.stderr


def test_a_hub_that_accepts_and_never_answers_does_not_hold_the_user(tmp_path):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        done = resolve(tmp_path, HF_ENDPOINT=endpoint)
    assert "UsageError: model someone/encoder: no such folder, the hub did not provide it" in done.stderr


def test_an_asset_that_was_not_fetched_says_how(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANTUNE_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="leantune assets --path minilm"):
        resolve_model("asset:minilm")


def test_an_adapter_names_a_base_that_others_can_load():
    assert public_name("asset:minilm") == "sentence-transformers/all-MiniLM-L6-v2"
    assert public_name("./encoder") == "./encoder"
    encoders = {name for name, asset in ASSETS.items() if asset.weights_sha256}
    assert encoders == set(HUB_NAMES)
