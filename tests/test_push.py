"""A run is published on a hub and loaded from it by its name. The hub is one of our own, on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import leantune
from hub import Hub, hub_on_this_machine
from leantune.cli.main import main
from leantune.errors import CheckpointError
from leantune.report.push import files_to_push

LOAD = """
import leantune, sys
classifier = leantune.load(sys.argv[1], precision="fp32")
print(classifier.predict_proba(["word1 word2", "word5"]).tolist())
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_on_this_machine() as hub:
        yield hub


def command(*words: object, **environment: str) -> subprocess.CompletedProcess:
    return python("-m", "leantune.cli", *words, **environment)


def python(*words: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def card_of(hub: Hub, name: str) -> tuple[dict, str]:
    _, front, text = hub.repositories[name].files["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_run_is_published_in_one_commit(run, hub):
    words = ("--example", "word1 word2", "--example", "word5")
    done = command("push", run, "my-org/mine", *words, **hub.environment())
    assert (done.returncode, done.stdout) == (0, f"{hub.address}/my-org/mine\n"), done.stderr
    (files,) = hub.repositories["my-org/mine"].commits
    assert set(files) == {"README.md", *files_to_push(run)}
    assert {"config.json", "model.safetensors", "adapter/adapter_model.safetensors"} <= set(files)
    assert files["model.safetensors"] == (run / "merged" / "model.safetensors").read_bytes()


def test_the_card_has_what_the_hub_shows(run, hub):
    done = command("push", run, "mine", "--example", "word1: word2", **hub.environment())
    assert done.returncode == 0, done.stderr
    front, text = card_of(hub, "me/mine")
    assert (front["library_name"], front["pipeline_tag"]) == ("transformers", "text-classification")
    assert front["widget"] == [{"text": "word1: word2"}]
    assert {each["type"] for each in front["model-index"][0]["results"][0]["metrics"]} == {"accuracy", "f1"}
    assert 'model="me/mine"' in text, "the whole name, though the user was left out"
    assert 'subfolder="adapter"' in text
    assert all(f"| {number} | {name} |" in text for number, name in enumerate(leantune.load(run).classes))
    assert str(run.parent) not in text, "no path of this machine"


def test_an_upload_that_broke_goes_on_and_nothing_is_public_before_its_end(run, hub):
    hub.broken_uploads = 1
    broken = command("push", run, "my-org/mine", "--private", **hub.environment())
    assert broken.returncode == 2
    assert "run the same command again" in broken.stderr
    assert hub.repositories["my-org/mine"].private
    assert hub.repositories["my-org/mine"].commits == []
    arrived = len(hub.uploads)
    done = command("push", run, "my-org/mine", "--private", **hub.environment())
    assert done.returncode == 0, done.stderr
    assert len(hub.uploads) == len(set(hub.uploads)) == 2, "the merged model and the adapter, each once"
    assert arrived == 1
    assert len(hub.repositories["my-org/mine"].commits) == 1


def test_a_published_run_is_loaded_by_its_name_and_then_without_the_hub(run, hub, tmp_path):
    assert command("push", run, "mine", "--private", **hub.environment()).returncode == 0
    cache = {"HF_HUB_CACHE": str(tmp_path / "cache")}
    expected = str(leantune.load(run).predict_proba(["word1 word2", "word5"]).tolist())
    for environment in (hub.environment(), {**hub.environment(), "HF_HUB_OFFLINE": "1"}):
        done = python("-c", LOAD, "me/mine", **environment, **cache)
        assert done.stdout.strip() == expected, done.stderr
    said = command("predict", "me/mine", "word1 word2", "--offline", **hub.environment(), **cache)
    assert said.stdout.split()[0] in leantune.load(run).classes, said.stderr


def test_a_private_model_and_a_missing_one_are_refused_alike(run, hub, tmp_path):
    assert command("push", run, "mine", "--private", **hub.environment()).returncode == 0
    for name in ("me/mine", "me/other"):
        environment = {**hub.environment(token="hf_of_another"), "HF_HUB_CACHE": str(tmp_path)}
        done = command("predict", name, "word1", **environment)
        assert done.returncode == 2
        assert (
            "it has no model of this name, or a private one: log in with 'hf auth login'"
            in (done.stderr.splitlines()[-1])
        )


def test_a_path_with_a_mistake_does_not_reach_the_hub(run, hub, tmp_path, monkeypatch):
    assert command("push", run, "runs/mine", **hub.environment()).returncode == 0
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    done = command("predict", "runs/mine", "word1", **hub.environment())
    assert done.stderr.splitlines()[-1].startswith("leantune: error: runs/mine: no such folder")


def test_a_dry_run_publishes_nothing(run, capsys):
    assert main(["push", str(run), "my-org/mine", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "README.md"


def test_offline_is_said(run):
    done = command("push", run, "my-org/mine", "--offline")
    assert done.returncode == 2
    assert "push needs the Hugging Face hub" in done.stderr


@pytest.mark.parametrize("token", ["hf_of_another", ""])
def test_without_the_right_token_nothing_is_published(run, hub, token):
    done = command("push", run, "my-org/mine", **hub.environment(token=token))
    assert done.returncode == 2
    assert "you are logged in ('hf auth login')" in done.stderr.splitlines()[-1]
    assert hub.repositories == {}


def test_a_hub_that_is_not_there_is_said_in_one_line(run):
    there = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "x", "HF_HUB_OFFLINE": "0"}
    done = command("push", run, "my-org/mine", **there)
    assert done.returncode == 2
    assert "upload to the Hugging Face hub failed" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_changed_file_is_not_published(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    with (copy / "merged" / "model.safetensors").open("ab") as file:
        file.write(b"!")
    with pytest.raises(CheckpointError, match="have changed since the run wrote them"):
        files_to_push(copy)
