"""Records the size and SHA-256 of files and checks whether files have changed since."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import TypedDict

from leantune.system.file_names import entry_of

_CHUNK_BYTES = 1 << 20


class FileRecord(TypedDict):
    """The size and SHA-256 of a file."""

    bytes: int
    sha256: str


def update_from(digest: hashlib._Hash, path: Path) -> None:
    """Update ``digest`` with the content of a file, block by block."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)


def describe_file(path: Path) -> FileRecord:
    """Return the current size and SHA-256 of a file."""
    digest = hashlib.sha256()
    update_from(digest, path)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def describe_folder(folder: Path) -> dict[str, FileRecord]:
    """Describe every file in ``folder`` by its name, except README.md, which users may edit.

    Raises:
        UnsafeFileError: a link leads out of the folder.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != "README.md")
    return {name: describe_file(entry_of(folder, name)) for name in names}


def find_difference(folder: Path, files: Mapping[str, FileRecord]) -> str | None:
    """Describe the first file that differs from the result of `describe_folder`; None if all are the same.

    Additional files are ignored.

    Raises:
        UnsafeFileError: a name is not a plain file name, or a link leads out of the folder.
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
