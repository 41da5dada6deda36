"""A run on the hub, which here is a server of our own that speaks what huggingface_hub asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from leantune.cli.main import main
from leantune.errors import CheckpointError
from leantune.report.push import files_to_push


class Hub(BaseHTTPRequestHandler):
    """Repositories are made; a commit is kept; every file is asked for whole, in the commit."""

    commits: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/repos/create"):
            asked = json.loads(body)
            self._answer({"url": f"http://{self.headers['Host']}/{asked['organization']}/{asked['name']}"})
        elif self.path.endswith("/validate-yaml"):
            self._answer({"warnings": [], "errors": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._answer(
                {
                    "files": [
                        {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for each in files
                    ]
                }
            )
        elif "/commit/" in self.path:
            self.commits.append(body)
            self._answer(
                {
                    "commitUrl": f"http://{self.headers['Host']}/my-org/mine/commit/{'0' * 40}",
                    "commitOid": "0" * 40,
                    "hookOutput": "",
                    "success": True,
                }
            )
        else:
            self._answer({}, 404)

    def _answer(self, value: object, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.commits = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def leantune(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "leantune.cli", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_a_run_is_published_in_one_commit(run, hub):
    done = leantune(
        "push", str(run), "my-org/mine", HF_ENDPOINT=hub, HF_TOKEN="hf_secret", HF_HUB_OFFLINE="0"
    )
    assert done.returncode == 0, done.stderr
    (commit,) = Hub.commits
    lines = [json.loads(line) for line in commit.splitlines()]
    names = {line["value"]["path"] for line in lines if line["key"] == "file"}
    assert names == {"README.md", *files_to_push(run)}
    assert {"config.json", "model.safetensors", "adapter/adapter_model.safetensors"} <= names
    import base64

    readme = next(line["value"]["content"] for line in lines if line["value"].get("path") == "README.md")
    card = base64.b64decode(readme).decode()
    assert 'model="my-org/mine"' in card
    assert 'subfolder="adapter"' in card
    assert "model-index:" in card
    assert str(run.parent) not in card, "no path of this machine"


def test_a_dry_run_publishes_nothing(run, capsys):
    assert main(["push", str(run), "my-org/mine", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "README.md"


def test_offline_is_said(run):
    done = leantune("push", str(run), "my-org/mine", "--offline")
    assert done.returncode == 2
    assert "push needs the Hugging Face hub" in done.stderr


def test_a_hub_that_is_not_there_is_said_in_one_line(run):
    done = leantune(
        "push", str(run), "my-org/mine", HF_ENDPOINT="http://127.0.0.1:9", HF_TOKEN="x", HF_HUB_OFFLINE="0"
    )
    assert done.returncode == 2
    assert "upload to the Hugging Face hub failed" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_changed_file_is_not_published(run, tmp_path):
    import shutil

    copy = Path(shutil.copytree(run, tmp_path / "run"))
    with (copy / "merged" / "model.safetensors").open("ab") as file:
        file.write(b"!")
    with pytest.raises(CheckpointError, match="have changed since the run wrote them"):
        files_to_push(copy)
