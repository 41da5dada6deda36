"""Locks a run folder for one run; the operating system releases the lock if the process dies."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from leantune.errors import UsageError
from leantune.system import distributed
from leantune.system.file_names import entry_of

LOCK = "run.lock"
PATIENCE_S = 0.2
"""Seconds to wait for a holder that is just ending and removing its file."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Lock ``folder`` for this run; if the run has several processes, the main process holds the lock.

    The lock is flock(2) on ``run.lock``, so that the next run can take over the file of a killed process. The text of
    the file names the holder. A folder that was created for the lock and is still empty is removed at the end.

    Raises:
        UsageError: another process holds the lock, or the folder cannot be written; the message says which process and
            host, or why.
    """
    if not distributed.is_main():
        yield
        return
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = entry_of(folder, LOCK)
        # On a file system without flock there is no substitute: a marker file would outlive a killed process.
        lock = FileLock(path, timeout=PATIENCE_S, fallback_to_soft=False, on_acquired=_write_holder)
        lock.acquire()
    except Timeout as error:
        raise UsageError(
            f"output {folder}: {_holder(path)} is using this folder; wait for it, stop it, or choose another output"
        ) from error
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"output {folder}: {error.strerror}; choose another folder") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while locked, so that waiting processes notice
        lock.release()
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def _write_holder(descriptor: int) -> None:
    os.truncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _holder(path: Path) -> str:
    with open(path, "rb") as file:
        return file.read(200).decode("utf-8", "replace").strip() or "another process"
