"""Files by size and SHA-256: what was written, and whether it still is what is there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20


def update_from(digest: hashlib._Hash, path: Path) -> None:
    """Feed a file's content to ``digest``, a piece at a time."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)


def describe_file(path: Path) -> dict[str, Any]:
    """``bytes`` and ``sha256`` of a file."""
    digest = hashlib.sha256()
    update_from(digest, path)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def describe_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """Every file in ``folder`` by its path there, but README.md, which is for people to edit."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    return {path.relative_to(folder).as_posix(): describe_file(path) for path in paths}


def find_difference(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The first file that is not as `describe_folder` said, and how; None if all are. Others may be there."""
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"{name} has {size} bytes, expected {expected['bytes']}"
        found = describe_file(path)["sha256"]
        if found != expected["sha256"]:
            return f"{name} has SHA-256 {found[:12]}…, expected {expected['sha256'][:12]}…"
    return None
