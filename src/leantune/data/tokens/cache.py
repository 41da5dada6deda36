"""The cache folder of token tables, which has a size limit and can be shared by any number of processes.

A table that is removed while a process has it mapped stays readable in that process.
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
    *(errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.ELOOP),  # a file or a broken link is in the way
)
"""Error numbers after which the tables are simply not cached."""
LEFTOVER_AGE_S = 3600.0
"""Minimum age of a leftover file in seconds; a newer one may have been created and not locked yet."""


def limit_bytes() -> int:
    """Return the size limit of the cache in bytes, from ``$LEANTUNE_TOKEN_CACHE_MIB``.

    Raises:
        UsageError: the variable is not a whole number.
    """
    given = mebibytes(LIMIT_VARIABLE)
    return DEFAULT_LIMIT_MIB * 2**20 if given is None else given


@contextlib.contextmanager
def new_entry(path: Path) -> Iterator[Path]:
    """Provide a temporary path to write, which is renamed to ``path`` if the block ends without an error.

    The file is locked while this process lives, so that no other process removes it as a leftover. If the folder cannot
    be written, or other users can write it, the file is in the system's temporary folder and is not kept.
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
        with contextlib.suppress(OSError):  # no locks on this file system, for `shrink` neither
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        os.fsync(descriptor)  # otherwise a power cut could keep the name but lose the content
        with contextlib.suppress(IsADirectoryError):  # a folder has this name: the entry is not kept
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


def mark_used(path: Path) -> None:
    """Set an entry's modification time to now, because not every file system records access times."""
    with contextlib.suppress(OSError):  # removed, or owned by another user
        os.utime(path)


def shrink(folder: Path, limit: int, *, keep: Path) -> None:
    """Remove the least recently used entries until the rest takes at most ``limit`` bytes.

    Args:
        folder: the folder of entries and of files that are being written.
        limit: the limit in bytes.
        keep: an entry that is kept whatever its size.
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
            with contextlib.suppress(OSError):  # owned by another user
                path.unlink(missing_ok=True)
                total -= size


def _remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of processes that died."""
    for path in folder.glob(f"*{NEW_SUFFIX}"):
        with contextlib.suppress(OSError):  # removed, locked by its writer, or owned by another user
            if time.time() - path.stat().st_mtime > LEFTOVER_AGE_S:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
