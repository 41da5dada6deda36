"""Checks file names in records, manifests and state files, which must be plain names in one folder."""

from __future__ import annotations

import os
from pathlib import Path

from leantune.errors import UnsafeFileError


def is_plain_name(name: object) -> bool:
    """Whether ``name`` is a plain name in a folder: without a separator, and not ``.`` or ``..``."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and "\0" not in name
        and not any(separator in name for separator in ("/", "\\", os.sep))
    )


def entry_of(folder: Path, name: str) -> Path:
    """Return the path of ``name`` in ``folder``, whether it exists or not.

    The files of a snapshot in the hub cache are links to blobs of the same model, which are accepted.

    Args:
        folder: the folder that a record or a manifest describes.
        name: the name in the record or the manifest.

    Raises:
        UnsafeFileError: ``name`` is not a plain name, or is a link that leads elsewhere.
    """
    if not is_plain_name(name):
        raise UnsafeFileError(
            f"{folder}: {name[:100]!r} is listed as one of its files, expected a plain file name: refused, as it may "
            "lead out of the folder"
        )
    path = folder / name
    if path.is_symlink() and not _leads_inside(path, folder):
        raise UnsafeFileError(
            f"{path}: a link to {os.readlink(path)}, which is not in that folder: refused; "
            "copy the file itself into the folder"
        )
    return path


def _leads_inside(link: Path, folder: Path) -> bool:
    try:
        file, folder = link.resolve(), folder.resolve()
        snapshots = next((each for each in (folder, *folder.parents) if each.name == "snapshots"), None)
        blobs = snapshots.with_name("blobs") if snapshots else folder
        return file.is_relative_to(folder) or file.is_relative_to(blobs)
    except (OSError, RuntimeError):  # links that form a circle
        return False
