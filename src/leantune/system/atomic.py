"""Writes files and folders atomically.

A file is written beside its target, flushed to disk and renamed. A folder is written the same way, after all its files
are flushed. A crash at any point leaves either the old or the new state, and at most a ``.tmp-`` name that the next
writer may remove.
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
"""Prefix of files and folders that are incomplete or being removed, and may be deleted."""
ASIDE_PREFIX = ".old-"
"""Prefix of a complete folder that was moved aside for its successor, and must be put back if its name is free."""

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
"""Largest length of a file name in bytes, in the file systems of Linux and macOS."""
_RUST_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Arguments of renameat2(2)."""


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Provide a temporary path to write, which replaces ``target`` if the block ends without an error.

    If ``target`` is a link, the file that it leads to is replaced.

    Raises:
        ResourceError: the disk is full or fails.
        UsageError: ``target`` exists and is not a regular file.
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
    """Return the path that a new file replaces: ``target``, or the path that it links to.

    Raises:
        UsageError: links form a circle, or the path exists and is not a regular file.
    """
    try:
        followed = Path(os.path.realpath(target, strict=True)) if target.is_symlink() else target
        mode = followed.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):  # the writer reports these
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
    """Provide a temporary folder to fill, which replaces ``target`` if the block ends without an error.

    Raises:
        ResourceError: the disk is full or fails.
    """
    temporary = _beside(target, TEMPORARY_PREFIX)
    with explained_disk_errors(target):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            readable = (
                temporary.stat().st_mode & 0o666
            )  # safetensors makes its files readable only by their owner
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
    """Replace ``target`` by ``text`` in UTF-8 atomically."""
    write_bytes(target, text.encode())


def write_bytes(target: Path, content: bytes) -> None:
    """Replace ``target`` by ``content`` atomically."""
    with atomic_file(target) as temporary:
        temporary.write_bytes(content)


def discard_folder(folder: Path) -> None:
    """Remove a folder, renaming it first so that its name never refers to a partly removed folder.

    Raises:
        ResourceError: the disk fails before the rename; the folder is then complete.
    """
    nameless = _beside(folder, TEMPORARY_PREFIX)
    with explained_disk_errors(folder):
        os.replace(folder, nameless)
    shutil.rmtree(nameless, ignore_errors=True)  # `remove_leftovers` removes the rest


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> list[str]:
    """Clean ``folder`` after a writer was killed and return the removed names.

    Folders that were moved aside are put back first if their names are free.
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
    """Turn disk errors into one line that says what is full, read-only or failing.

    Raises:
        ResourceError: one of the errors in `DISK_FAILURES` occurred.
    """
    try:
        yield
    except Exception as error:
        reason = disk_failure(error)
        if reason is None:
            raise
        place = getattr(error, "filename", None)
        if place and not _is_part_of(Path(place).absolute(), target.absolute()):
            raise ResourceError(
                f"{place}: {reason}"
            ) from error  # the error is about a file that is being read
        raise ResourceError(f"cannot write {target}: {reason}{_free_space(target)}") from error


def _is_part_of(path: Path, target: Path) -> bool:
    """Whether writing ``target`` involves ``path``: the target, its temporary files or its parent folders."""
    if path in target.parents or path.is_relative_to(target):
        return True
    beside = path.relative_to(target.parent).parts[0] if path.is_relative_to(target.parent) else ""
    return beside.startswith((TEMPORARY_PREFIX, ASIDE_PREFIX))


def disk_failure(error: Exception) -> str | None:
    """Return the reason of a disk error, or None for other errors.

    Rust libraries (safetensors, tokenizers) raise their own exceptions with the system's error number in the text.
    """
    if isinstance(error, OSError):
        return DISK_FAILURES.get(error.errno or 0)
    match = _RUST_OS_ERROR.search(str(error))
    return DISK_FAILURES.get(int(match[1])) if match else None


def _beside(target: Path, prefix: str) -> Path:
    """Return a new path beside ``target`` that contains its name, shortened if too long."""
    name = os.fsencode(f"{prefix}{uuid.uuid4().hex}-{target.name}")
    return target.with_name(os.fsdecode(name[:MAX_NAME_BYTES]))


def _free_space(target: Path) -> str:
    existing = next(path for path in (target, *target.parents) if path.exists())
    return f" ({shutil.disk_usage(existing).free // 2**20:,} MiB free)"


def _replace_folder(temporary: Path, target: Path) -> None:
    """Rename ``temporary`` to ``target``; an existing folder ends up under the temporary name."""
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
    """Swap two names in one call, so that neither is ever missing; return False if the system does not support it.

    Raises:
        OSError: the system supports it, but the call failed.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux, glibc 2.28
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # the file system does not support it
        return False
    raise OSError(number, os.strerror(number), str(second))
