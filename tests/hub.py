"""A model hub on this machine: what huggingface_hub asks of one to create, upload, commit, list and download.

The answers have the fields that huggingface_hub reads. Large files go by the batch protocol of Git LFS.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

TOKEN = "hf_secret"
USER = "me"


@dataclass
class Repository:
    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=list)

    @property
    def head(self) -> str:
        return f"{len(self.commits):040x}"

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1] if self.commits else {}


@dataclass
class Hub:
    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """Uploaded large files by their SHA-256."""
    uploads: list[str] = field(default_factory=list)
    broken_uploads: int = 0
    """How many of the next uploads fail."""

    def environment(self, token: str = TOKEN) -> dict[str, str]:
        return {
            "HF_ENDPOINT": self.address,
            "HF_TOKEN": token,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",  # its protocol is not HTTP alone
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


@contextmanager
def hub_on_this_machine() -> Iterator[Hub]:
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path
        if path == "/api/validate-yaml":
            self._answer({"warnings": [], "errors": []})
        elif not self._may_write():
            self._answer({"error": "Invalid credentials"}, 401)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.endswith("/info/lfs/objects/batch"):
            self._answer({"transfer": "basic", "objects": [*map(self._batch, json.loads(body)["objects"])]})
        elif path.startswith("/api/models/") and "/preupload/" in path:
            files = json.loads(body)["files"]
            self._answer(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": _mode(f["path"]), "shouldIgnore": False}
                        for f in files
                    ]
                }
            )
        elif path.startswith("/api/models/") and "/commit/" in path:
            self._commit(path.removeprefix("/api/models/").split("/commit/")[0], body)
        else:
            self._answer({"error": f"no answer for {path}"}, 404)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.hub.broken_uploads > 0:
            self.hub.broken_uploads -= 1
            self._answer({"error": "the storage is away"}, 400)
            return
        digest = hashlib.sha256(content).hexdigest()
        assert self.path == f"/large/{digest}"
        self.hub.large[digest] = content
        self.hub.uploads.append(digest)
        self._answer({})

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        name = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self._may_write()):
            self._answer({"error": "Repository not found"}, 401, {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/models/"):
            tree = [_entry(file, content) for file, content in repository.files.items()]
            about = {
                "id": name,
                "sha": repository.head,
                "private": repository.private,
                "tags": [],
                "siblings": [],
            }
            self._answer(tree if "/tree/" in path else about)
        else:
            content = repository.files[path.split("/resolve/")[1].split("/", 1)[1]]
            headers = {"X-Repo-Commit": repository.head, "ETag": f'"{_oid(content)}"'}
            self._answer(content, headers=headers)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks up

    def _create(self, asked: dict[str, str]) -> None:
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        is_there = name in self.hub.repositories
        if not is_there:
            self.hub.repositories[name] = Repository(
                private=asked.get("visibility") == "private" or bool(asked.get("private"))
            )
        self._answer({"url": f"{self.hub.address}/{name}", "name": name}, 409 if is_there else 200)

    def _batch(self, asked: dict[str, object]) -> dict[str, object]:
        answer = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] in self.hub.large:
            return answer
        return {**answer, "actions": {"upload": {"href": f"{self.hub.address}/large/{asked['oid']}"}}}

    def _commit(self, name: str, body: bytes) -> None:
        files = dict(self.hub.repositories[name].files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        self.hub.repositories[name].commits.append(files)
        head = self.hub.repositories[name].head
        self._answer(
            {
                "commitUrl": f"{self.hub.address}/{name}/commit/{head}",
                "commitOid": head,
                "hookOutput": "",
                "success": True,
            }
        )

    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _answer(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


def _mode(file: str) -> str:
    return "lfs" if file.endswith(".safetensors") else "regular"


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _entry(file: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": file, "size": len(content), "oid": _oid(content)}
