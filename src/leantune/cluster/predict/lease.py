"""Who works on an output folder: a file that is written again and again, since a storage elsewhere has no locks.

Two that start at once may both get it. That costs time and nothing else, as parts are the same whoever computes them.
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
    """A process that works on a folder."""

    host: str
    process: int
    started: str
    """Tells it from a later process of the same number."""
    renewed: float
    """Seconds since 1970."""

    @property
    def is_at_work(self) -> bool:
        """Whether it lives, as far as can be known: of another machine it is known by the age of the file."""
        if self.host == socket.gethostname():
            return _started(self.process) == self.started
        return time.time() - self.renewed < EXPIRES_S


@contextmanager
def leased(folder: Folder) -> Iterator[None]:
    """Hold an output folder for as long as the block runs; a dead process's lease is taken over.

    Raises:
        UsageError: naming process and machine that are at work there.
    """
    if LEASE in folder.sizes():
        holder = parse_json(folder.read(LEASE), Holder, folder.address(LEASE))
        if holder.is_at_work:
            raise UsageError(
                f"output {folder.url}: process {holder.process} on {holder.host} is at work there; wait for it, or "
                f"stop it (of a machine that is gone, wait {EXPIRES_S:.0f} seconds)"
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
        with suppress(LeantuneError):  # whoever writes parts says what is wrong with the storage
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
    """When a process of this machine began, as Linux counts; elsewhere only whether it is there. None: it is not."""
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
