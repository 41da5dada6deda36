"""One run folder, one run: a lock that the system itself takes back when its process dies."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leantune.errors import UsageError
from leantune.system import distributed
from leantune.system.file_names import entry_of

LOCK = "run.lock"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this run; of several processes of one run the main one holds it for all.

    The lock is flock(2) on ``run.lock``, so that the file of a process that was killed is no lock: the
    next run takes it over. Its text says who holds it. A folder
    that was made for the lock and stays empty goes with it.

    Raises:
        UsageError: naming process and host that hold it, or why the folder cannot be written.
    """
    if not distributed.is_main():
        yield
        return
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(entry_of(folder, LOCK))
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"output {folder}: {error.strerror}; choose another folder") from error
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def _acquire(path: Path) -> int:
    """A descriptor of ``path`` that is locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip() or "another process"
            os.close(descriptor)
            raise UsageError(
                f"output {path.parent}: {holder} is at work there; wait for it, stop it, or choose another output"
            ) from error
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)  # its holder ended, and took the name away, after we opened it


def _is_at(path: Path, descriptor: int) -> bool:
    return path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor))
