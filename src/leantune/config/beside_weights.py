"""Reads leantune's own small files beside weights, in ``adapter/`` and ``merged/``."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from leantune.system.file_names import entry_of
from leantune.system.json_files import read_json

T = TypeVar("T")


def read_beside_weights(folder: Path, name: str, kind: type[T]) -> T | None:
    """Read the file ``name`` in a folder of weights, or in ``merged/`` below it; None if it does not exist.

    Raises:
        CheckpointError: the file is damaged.
        UnsafeFileError: the file is a link that leads out of the folder.
    """
    for place in (folder, folder / "merged"):
        if place.is_dir() and (path := entry_of(place, name)).is_file():
            return read_json(path, kind)
    return None
