"""The folder of token tables, kept below a size. Any number of processes may use it at once.

A table that is removed while a process has it mapped stays readable there until that process ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from leantune.errors import UnsafeFileError
from leantune.system.environment import mebibytes
from leantune.system.trusted_files import make_trusted_folder

LIMIT_VARIABLE = "LEANTUNE_TOKEN_CACHE_MIB"
DEFAULT_LIMIT_MIB = 2048
SUFFIX, NEW_SUFFIX = ".arrow", ".tmp"
NO_FOLDER = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.ELOOP),  # a file, or a link to nowhere, in the way
)
"""Why a folder cannot be written that is not worth an error."""
LEFTOVER_AGE_S = 3600.0
"""A file that grew so lately is not looked at: it may have been made and not locked yet."""


def limit_bytes() -> int:
    """What ``$LEANTUNE_TOKEN_CACHE_MIB`` allows.

    Raises:
        UsageError: if it is not a whole number.
    """
    given = mebibytes(LIMIT_VARIABLE)
    return DEFAULT_LIMIT_MIB * 2**20 if given is None else given


@contextlib.contextmanager
def new_entry(path: Path) -> Iterator[Path]:
    """A temporary path to write; it becomes ``path`` if the block ends without an error.

    It is locked as long as this process lives, so that none takes it for a leftover. Where the folder cannot
    be written, or others can write it, the path is one in the system's folder for temporary files and is not kept.
    """
    temporary = path.with_suffix(f".{uuid.uuid4().hex}{NEW_SUFFIX}")
    try:
        make_trusted_folder(path.parent)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except (OSError, UnsafeFileError) as error:
        if isinstance(error, OSError) and error.errno not in NO_FOLDER:
            raise
        with tempfile.TemporaryDirectory(prefix="leantune-") as folder:
            yield Path(folder) / path.name
        return
    try:
        with contextlib.suppress(OSError):  # a file system without locks: `shrink` gets none either
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        os.fsync(descriptor)  # else the name can survive a power cut that the content does not
        with contextlib.suppress(IsADirectoryError):  # a folder has the name: the entry is not kept
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


def mark_used(path: Path) -> None:
    """Note that an entry was used now: the time of its last reading is not kept on every file system."""
    with contextlib.suppress(OSError):  # removed, or of another user
        os.utime(path)


def shrink(folder: Path, limit: int, *, keep: Path) -> None:
    """Remove the entries that were used longest ago until all take ``limit`` bytes at most.

    Args:
        folder: of entries and of files that are being written.
        limit: in bytes.
        keep: an entry that stays, whatever its size.
    """
    _remove_leftovers(folder)
    entries = []
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            entries.append((status.st_mtime_ns, path, status.st_size))
    total = sum(size for _, _, size in entries)
    for _, path, size in sorted(entries):
        if total <= limit:
            return
        if path != keep:
            with contextlib.suppress(OSError):  # of another user
                path.unlink(missing_ok=True)
                total -= size


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes that died were writing."""
    for path in folder.glob(f"*{NEW_SUFFIX}"):
        with contextlib.suppress(OSError):  # gone, locked by its writer, or of another user
            if time.time() - path.stat().st_mtime > LEFTOVER_AGE_S:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
