"""Files in a cache that are executed or believed: only those that nobody else can have written.

A file is trusted if it and its folder belong to the user or to root, and neither is writable by others. Both are looked
at through open descriptors, and what is used is the descriptor, so that nothing can be put in between.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from leantune.errors import UnsafeFileError

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def open_trusted(path: Path) -> int:
    """A descriptor of a regular file, for reading; the caller closes it.

    Raises:
        UnsafeFileError: if others can write the file or its folder, or it is no regular file; the message says which.
        OSError: if there is no such file, it is a link, or it cannot be opened.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _check(folder, path.parent)
        # without O_NONBLOCK a named pipe would be waited for
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
    """Make ``folder``, if it is not there, and let nobody else write it.

    Raises:
        UnsafeFileError: if it belongs to another user.
        OSError: if it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = os.fstat(descriptor)
        if found.st_uid == os.geteuid() and found.st_mode & _WRITABLE_BY_OTHERS:  # as a umask of 002 makes it
            os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & ~_WRITABLE_BY_OTHERS)
        _check(descriptor, folder)
    finally:
        os.close(descriptor)


def check_trusted_files(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder, or one of these files in it, that others can have written; absent ones are left out.

    Raises:
        UnsafeFileError: naming the first such path and what to do.
        OSError: if something cannot be opened.
    """
    try:
        for name in sorted(set(names) & set(os.listdir(folder))):
            os.close(open_trusted(folder / name))
    except UnsafeFileError as error:
        raise UnsafeFileError(
            f"{error}: what is in {folder} cannot be trusted; remove it, or set LEANTUNE_CACHE to a folder of your own"
        ) from None


def _check(descriptor: int, path: Path) -> None:
    found = os.fstat(descriptor)
    if found.st_uid not in (0, os.geteuid()):
        raise UnsafeFileError(f"{path}: belongs to user {found.st_uid}, expected {os.geteuid()} or root")
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise UnsafeFileError(
            f"{path}: writable by others (mode {stat.S_IMODE(found.st_mode):o}); chmod go-w it"
        )
