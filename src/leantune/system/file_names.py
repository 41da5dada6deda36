"""Names of files in records, manifests and state files: plain names of what is in one folder, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from leantune.errors import UnsafeFileError


def is_plain_name(name: object) -> bool:
    """Whether ``name`` is the name of an entry of a folder: without a separator, and not ``.`` or ``..``."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and "\0" not in name
        and not any(separator in name for separator in ("/", "\\", os.sep))
    )


def entry_of(folder: Path, name: str) -> Path:
    """The path of ``name`` in ``folder``, whether there is such an entry or not.

    Args:
        folder: the folder that a record or a manifest describes.
        name: as the record or the manifest says.

    Raises:
        UnsafeFileError: if it is no plain name, or a link that leads out of the folder.
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
        return link.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # of links that lead to each other
        return False
