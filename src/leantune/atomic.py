"""Files and folders that exist whole or not at all.

A file is written beside its target, flushed to disk and renamed; a folder likewise, with every file
in it flushed first. A crash at any point leaves the old state or the new one, and at most a
``.tmp-`` name that the next writer may remove.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leantune.errors import ResourceError

TEMPORARY_PREFIX = ".tmp-"


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A temporary path to write; it becomes ``target`` if the block ends without an error.

    Raises:
        ResourceError: if the disk is full or fails.
    """
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{target.name}")
    with explained_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, target)
            sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder to fill; it replaces ``target`` if the block ends without an error.

    Raises:
        ResourceError: if the disk is full or fails.
    """
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{target.name}")
    with explained_disk_errors(target):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for path in sorted(temporary.rglob("*"), reverse=True):
                sync(path)
            sync(temporary)
            _replace_folder(temporary, target)
            sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Replace ``target`` by ``text`` in UTF-8, whole or not at all."""
    with atomic_file(target) as temporary:
        temporary.write_text(text, "utf-8")


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> list[str]:
    """Remove what an interrupted writer left in ``folder``; returns the names."""
    names = []
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        names.append(path.name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return names


@contextmanager
def explained_disk_errors(target: Path) -> Iterator[None]:
    """Say in one line which disk is full, read-only or failing.

    Raises:
        ResourceError: for ENOSPC, EDQUOT, EIO, EROFS, EACCES and EPERM.
    """
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "no space left",
            errno.EDQUOT: "the quota is used up",
            errno.EIO: "the disk reports an input/output error",
            errno.EROFS: "the file system is read-only",
            errno.EACCES: "permission denied",
            errno.EPERM: "operation not permitted",
        }
        if error.errno not in reasons:
            raise
        raise ResourceError(f"cannot write {target}: {reasons[error.errno]}{_free_space(target)}") from error


def _free_space(target: Path) -> str:
    existing = next(path for path in (target, *target.parents) if path.exists())
    return f" ({shutil.disk_usage(existing).free // 2**20:,} MiB free)"


def _replace_folder(temporary: Path, target: Path) -> None:
    if not target.exists():
        os.replace(temporary, target)
        return
    # a folder that is not empty cannot be replaced in one call: move it aside, then remove it
    aside = target.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-old-{target.name}")
    os.replace(target, aside)
    try:
        os.replace(temporary, target)
    except OSError:
        os.replace(aside, target)
        raise
    shutil.rmtree(aside)
