"""Files and folders that exist whole or not at all.

A file is written beside its target, flushed to disk and renamed; a folder likewise, with every file
in it flushed first. A crash at any point leaves the old state or the new one, and at most a
``.tmp-`` name that the next writer may remove.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leantune.errors import ResourceError, UsageError

TEMPORARY_PREFIX = ".tmp-"
"""New and not yet whole, or old and on its way out: may be removed."""
ASIDE_PREFIX = ".old-"
"""Whole, and moved aside while its successor takes the name: must be put back if the name is free."""

DISK_FAILURES = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file would be larger than is allowed (ulimit -f)",
    errno.EIO: "the disk reports an input/output error",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
}

MAX_NAME_BYTES = 255
"""Bytes of a file's name, in the file systems of Linux and macOS."""
_RUST_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Arguments of renameat2(2)."""


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A temporary path to write; it becomes ``target``, or what ``target`` links to, if the block ends without an
    error.

    Raises:
        ResourceError: if the disk is full or fails.
        UsageError: if ``target`` is there and no regular file.
    """
    target = file_to_replace(target)
    temporary = _beside(target, TEMPORARY_PREFIX)
    with explained_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, target)
            sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def file_to_replace(target: Path) -> Path:
    """``target``, or what it links to: the name that a new file takes.

    Raises:
        UsageError: if links lead in a circle, or something has the name that is no regular file.
    """
    try:
        followed = Path(os.path.realpath(target, strict=True)) if target.is_symlink() else target
        mode = followed.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):  # who writes says so
        return Path(os.path.realpath(target)) if target.is_symlink() else target
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UsageError(f"{target}: a link that leads back to itself; choose another name") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, a pipe or a socket"
        place = f"{target}: leads to {followed}, " if followed != target else f"{target}: "
        raise UsageError(f"{place}{kind}; only regular files are replaced: choose another name")
    return followed


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder to fill; it replaces ``target`` if the block ends without an error.

    Raises:
        ResourceError: if the disk is full or fails.
    """
    temporary = _beside(target, TEMPORARY_PREFIX)
    with explained_disk_errors(target):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            readable = temporary.stat().st_mode & 0o666  # safetensors lets nobody else read its files
            for path in sorted(temporary.rglob("*"), reverse=True):
                if path.is_file():
                    path.chmod(readable)
                sync(path)
            sync(temporary)
            _replace_folder(temporary, target)
            sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Replace ``target`` by ``text`` in UTF-8, whole or not at all."""
    write_bytes(target, text.encode())


def write_bytes(target: Path, content: bytes) -> None:
    """Replace ``target`` by ``content``, whole or not at all."""
    with atomic_file(target) as temporary:
        temporary.write_bytes(content)


def discard_folder(folder: Path) -> None:
    """Remove a folder; it loses its name first, so that nothing half removed ever has it.

    Raises:
        ResourceError: if the disk fails before the name is gone; the folder is whole then.
    """
    nameless = _beside(folder, TEMPORARY_PREFIX)
    with explained_disk_errors(folder):
        os.replace(folder, nameless)
    shutil.rmtree(nameless, ignore_errors=True)  # what stays is a leftover like any other


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> list[str]:
    """Clean ``folder`` after a writer that was killed; returns the names that were removed.

    A folder that was moved aside is put back first, if nothing took its place.
    """
    for path in folder.glob(f"{ASIDE_PREFIX}*"):
        target = folder / path.name[len(ASIDE_PREFIX) + 33 :]  # after the uuid and a dash
        if target.exists():
            discard_folder(path)
        else:
            os.replace(path, target)
    names = []
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        names.append(path.name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return names


@contextmanager
def explained_disk_errors(target: Path) -> Iterator[None]:
    """Say in one line which disk is full, read-only or failing.

    Raises:
        ResourceError: for the errors in `DISK_FAILURES`.
    """
    try:
        yield
    except Exception as error:
        reason = disk_failure(error)
        if reason is None:
            raise
        place = getattr(error, "filename", None)
        if place and not _is_part_of(Path(place).absolute(), target.absolute()):
            raise ResourceError(f"{place}: {reason}") from error  # a file that is read from
        raise ResourceError(f"cannot write {target}: {reason}{_free_space(target)}") from error


def _is_part_of(path: Path, target: Path) -> bool:
    """Whether who writes ``target`` touches ``path``: the target, its temporaries beside it, and folders above."""
    if path in target.parents or path.is_relative_to(target):
        return True
    beside = path.relative_to(target.parent).parts[0] if path.is_relative_to(target.parent) else ""
    return beside.startswith((TEMPORARY_PREFIX, ASIDE_PREFIX))


def disk_failure(error: Exception) -> str | None:
    """What is wrong with the disk, or None if ``error`` is about something else.

    Libraries in Rust (safetensors, tokenizers) raise exceptions of their own and put the number of the
    system's error into the text.
    """
    if isinstance(error, OSError):
        return DISK_FAILURES.get(error.errno or 0)
    match = _RUST_OS_ERROR.search(str(error))
    return DISK_FAILURES.get(int(match[1])) if match else None


def _beside(target: Path, prefix: str) -> Path:
    """A new name in the folder of ``target`` that says whose it is; of a long name the beginning."""
    name = os.fsencode(f"{prefix}{uuid.uuid4().hex}-{target.name}")
    return target.with_name(os.fsdecode(name[:MAX_NAME_BYTES]))


def _free_space(target: Path) -> str:
    existing = next(path for path in (target, *target.parents) if path.exists())
    return f" ({shutil.disk_usage(existing).free // 2**20:,} MiB free)"


def _replace_folder(temporary: Path, target: Path) -> None:
    """Give ``temporary`` the name of ``target``; an old folder of that name ends under the other."""
    if not target.exists():
        os.replace(temporary, target)
    elif not _exchange(temporary, target):
        aside = _beside(target, ASIDE_PREFIX)
        os.replace(target, aside)
        try:
            os.replace(temporary, target)
        except OSError:
            os.replace(aside, target)
            raise
        discard_folder(aside)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one call, so that neither is ever missing; False where the system cannot.

    Raises:
        OSError: if it can, and failed.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux, glibc 2.28
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # a file system without it
        return False
    raise OSError(number, os.strerror(number), str(second))
