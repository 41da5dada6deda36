"""One run folder, one run: a lock that the system itself takes back when its process dies."""

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
"""For a holder that ends at this moment and takes its file away."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this run; of several processes of one run the main one holds it for all.

    The lock is flock(2) on ``run.lock``, so the file of a killed process is no lock: the next run takes it over.
    Its text names the holder. A folder that was made for the lock and stays empty goes with it.

    Raises:
        UsageError: naming process and host that hold it, or why the folder cannot be written.
    """
    if not distributed.is_main():
        yield
        return
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = entry_of(folder, LOCK)
        # a marker in place of flock, where a file system has none, would outlive a killed process
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
        path.unlink(missing_ok=True)  # while it is held: who waits for this file finds that it is gone
        lock.release()
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def _write_holder(descriptor: int) -> None:
    os.truncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _holder(path: Path) -> str:
    with open(path, "rb") as file:
        return file.read(200).decode("utf-8", "replace").strip() or "another process"
