"""The lease of an output folder, which one process holds at a time.

A remote storage has no locks, so the lease is a file that is created only if it does not exist. A dead process leaves
its file behind. Whoever finds it creates the file of its successor, named after the dead process, so that of several
that try at once only one succeeds. After that it reads the first file again: if that has changed, the lease was given
back in the meantime.
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
from leantune.errors import LeantuneError, MissingFileError, UsageError
from leantune.system.json_files import parse_json

LEASE = "_running.json"
RENEWED_S, EXPIRES_S = 15.0, 60.0
TRIES = 3
"""Attempts while another process gives the lease back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that uses a folder."""

    host: str
    process: int
    started: str
    """Tells it from a later process with the same number."""
    renewed: float
    """Time of the last renewal in seconds since 1970."""

    @property
    def is_alive(self) -> bool:
        """Whether the process is running; on another machine, whether it renewed the file lately."""
        if self.host == socket.gethostname():
            return _started(self.process) == self.started
        return time.time() - self.renewed < EXPIRES_S

    @property
    def successor(self) -> str:
        """Name of the file that takes the lease over."""
        return f"_running-after-{self.host}-{self.process}-{self.started}.json"


@contextmanager
def leased(folder: Folder) -> Iterator[None]:
    """Hold the lease of an output folder while the block runs.

    Raises:
        UsageError: naming the process and the machine that hold it.
    """
    names = _acquire(folder)
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(folder, names[-1], ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for name in names:  # the first file first: see `_acquire`
            folder.remove(name)


def _acquire(folder: Folder) -> list[str]:
    """The names of the files from the first one to our own."""
    for _ in range(TRIES):
        names, first = [LEASE], b""
        with suppress(MissingFileError):  # given back just now
            while not folder.write_first(names[-1], _mine()):
                content = folder.read(names[-1])
                first = first or content
                holder = parse_json(content, Holder, folder.address(names[-1]))
                if holder.is_alive:
                    raise UsageError(
                        f"output {folder.url}: process {holder.process} on {holder.host} is using this folder; wait "
                        f"for it, or stop it (if that machine is gone, wait {EXPIRES_S:.0f} seconds)"
                    )
                names.append(holder.successor)
            if len(names) == 1 or _is_unchanged(folder, first):
                return names
            folder.remove(names[-1])
    raise UsageError(f"output {folder.url}: another process is giving the folder back; start again")


def _is_unchanged(folder: Folder, first: bytes) -> bool:
    try:
        return folder.read(LEASE) == first
    except MissingFileError:
        return False


def _renew(folder: Folder, name: str, ended: threading.Event) -> None:
    while not ended.wait(RENEWED_S):
        with suppress(LeantuneError):  # the writer of the parts reports what is wrong with the storage
            folder.write(name, _mine())


def _mine() -> bytes:
    started = _started(os.getpid()) or ""
    mine = Holder(host=socket.gethostname(), process=os.getpid(), started=started, renewed=time.time())
    return json.dumps(asdict(mine)).encode()


def _started(process: int) -> str | None:
    """When a process of this machine started, in ticks on Linux; elsewhere an empty text. None: it does not run."""
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
