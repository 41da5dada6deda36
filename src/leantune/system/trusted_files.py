"""Opens cache files that are executed or trusted only if no other user can have written them.

A file is trusted if the file and its folder belong to the user or to root and are not writable by others. Both are
checked and used through open descriptors, so that they cannot be exchanged in between.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from leantune.errors import UnsafeFileError

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def open_trusted(path: Path) -> int:
    """Open a regular file for reading and return its descriptor, which the caller closes.

    Raises:
        UnsafeFileError: others can write the file or its folder, or it is not a regular file; the message says which.
        OSError: the file does not exist, is a link, or cannot be opened.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _check(folder, path.parent)
        # without O_NONBLOCK, opening a named pipe would block
        descriptor = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        _check(descriptor, path)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnsafeFileError(f"{path}: not a regular file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_trusted_folder(folder: Path) -> None:
    """Create ``folder`` if needed, and make it writable only by the user.

    Raises:
        UnsafeFileError: the folder belongs to another user.
        OSError: the folder cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = os.fstat(descriptor)
        if (
            found.st_uid == os.geteuid() and found.st_mode & _WRITABLE_BY_OTHERS
        ):  # for example with a umask of 002
            os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & ~_WRITABLE_BY_OTHERS)
        _check(descriptor, folder)
    finally:
        os.close(descriptor)


def check_trusted_files(folder: Path, names: Iterable[str]) -> None:
    """Check that no other user can have written a folder or these files in it; missing files are skipped.

    Raises:
        UnsafeFileError: others can have written one; the message names the first path and what to do.
        OSError: a path cannot be opened.
    """
    try:
        for name in sorted(set(names) & set(os.listdir(folder))):
            os.close(open_trusted(folder / name))
    except UnsafeFileError as error:
        raise UnsafeFileError(
            f"{error}: {folder} cannot be trusted; remove it, or set LEANTUNE_CACHE to a folder of your own"
        ) from None


def _check(descriptor: int, path: Path) -> None:
    found = os.fstat(descriptor)
    if found.st_uid not in (0, os.geteuid()):
        raise UnsafeFileError(f"{path}: belongs to user {found.st_uid}, expected {os.geteuid()} or root")
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise UnsafeFileError(
            f"{path}: writable by others (mode {stat.S_IMODE(found.st_mode):o}); chmod go-w it"
        )
