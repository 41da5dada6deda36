"""Files by size and SHA-256: what was written, and whether it still is what is there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import TypedDict

from leantune.system.file_names import entry_of

_CHUNK_BYTES = 1 << 20


class FileRecord(TypedDict):
    """Size and SHA-256 of a file."""

    bytes: int
    sha256: str


def update_from(digest: hashlib._Hash, path: Path) -> None:
    """Feed a file's content to ``digest``, a piece at a time."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)


def describe_file(path: Path) -> FileRecord:
    """What a file is now."""
    digest = hashlib.sha256()
    update_from(digest, path)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def describe_folder(folder: Path) -> dict[str, FileRecord]:
    """Every file in ``folder`` by its name, but README.md, which is for people to edit.

    Raises:
        UnsafeFileError: for a link that leads out of the folder.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != "README.md")
    return {name: describe_file(entry_of(folder, name)) for name in names}


def find_difference(folder: Path, files: Mapping[str, FileRecord]) -> str | None:
    """The first file that is not as `describe_folder` said, and how; None if all are. Others may be there.

    Raises:
        UnsafeFileError: for a name that is no plain one, or a link that leads out of the folder.
    """
    paths = {name: entry_of(folder, name) for name in files}
    for name, expected in files.items():
        path = paths[name]
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"{name} has {size} bytes, expected {expected['bytes']}"
        found = describe_file(path)["sha256"]
        if found != expected["sha256"]:
            return f"{name} has SHA-256 {found[:12]}…, expected {expected['sha256'][:12]}…"
    return None
