"""A lease on an output folder: a file that is renewed regularly, because remote storages have no locks.

Two processes that start at the same time may both get the lease. This only wastes time, because they compute identical
parts.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from leantune.cluster.storage import Folder
from leantune.errors import LeantuneError, UsageError
from leantune.system.json_files import parse_json

LEASE = "_running.json"
RENEWED_S, EXPIRES_S = 15.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that holds a lease."""

    host: str
    process: int
    started: str
    """Start time of the process, which distinguishes it from a later one with the same ID."""
    renewed: float
    """Time of the last renewal in seconds since 1970."""

    @property
    def is_at_work(self) -> bool:
        """Whether the process is alive. On another machine, it counts as alive until the lease expires."""
        if self.host == socket.gethostname():
            return _started(self.process) == self.started
        return time.time() - self.renewed < EXPIRES_S


@contextmanager
def leased(folder: Folder) -> Iterator[None]:
    """Hold the lease on an output folder while the block runs. The lease of a dead process is taken over.

    Raises:
        UsageError: if another process holds the lease.
    """
    if LEASE in folder.sizes():
        holder = parse_json(folder.read(LEASE), Holder, folder.address(LEASE))
        if holder.is_at_work:
            raise UsageError(
                f"output {folder.url}: process {holder.process} on {holder.host} is writing to it; wait for it or stop "
                f"it (if that machine is gone, wait {EXPIRES_S:.0f} seconds)"
            )
    _write(folder)
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(folder, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        folder.remove(LEASE)


def _renew(folder: Folder, ended: threading.Event) -> None:
    while not ended.wait(RENEWED_S):
        with suppress(LeantuneError):  # writing parts reports errors of the storage
            _write(folder)


def _write(folder: Folder) -> None:
    mine = Holder(
        host=socket.gethostname(),
        process=os.getpid(),
        started=_started(os.getpid()) or "",
        renewed=time.time(),
    )
    folder.write(LEASE, json.dumps(asdict(mine)).encode())


def _started(process: int) -> str | None:
    """Return the start time of a local process in Linux's units, "" where it is unknown, or None if it does not run."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except OSError:
        pass
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
