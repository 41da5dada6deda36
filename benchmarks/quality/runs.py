"""The runs of the study: one compressed file, ``runs.jsonl.gz``, with a line for each."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RUNS = "runs.jsonl.gz"
"""``zcat`` shows it; `pandas.read_json(..., lines=True)` reads it."""

Row = dict[str, Any]
"""A run: its ``key`` (`benchmarks.quality.jobs.Job.key`) and what `run_job` returned."""


class Runs:
    """The rows of `RUNS`, in the order in which they were added.

    Args:
        folder: of the file; both are made with the first run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[str, Row] = {}
        self._seen: tuple[int, int, int] | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / RUNS

    def get(self, key: str) -> Row | None:
        """The run of this key, or None."""
        return self._current().get(key)

    def rows(self) -> list[Row]:
        """All of them."""
        return list(self._current().values())

    def add(self, key: str, result: Row) -> None:
        """Add a run as the last row, or put it in the place of the one of this key.

        The file is replaced as a whole, so a process that is stopped leaves the old or the new one; those that add at
        the same time wait for each other, so none is lost.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(self.folder):
            self._seen = None  # two writes within a tick of the clock may look alike
            rows = {**self._current(), key: {"key": key, **result}}
            temporary = self.path.with_suffix(".part")
            temporary.write_bytes(packed(rows.values()))
            temporary.replace(self.path)

    def _current(self) -> dict[str, Row]:
        """The rows by their keys; read again when another process has replaced the file."""
        if not self.path.is_file():
            return {}
        status = self.path.stat()
        seen = (status.st_ino, status.st_size, status.st_mtime_ns)
        if seen != self._seen:
            rows = map(json.loads, gzip.decompress(self.path.read_bytes()).splitlines())
            self._rows, self._seen = {row["key"]: row for row in rows}, seen
        return self._rows


def packed(rows: Iterable[Row]) -> bytes:
    """The content of a file of ``rows``; the same rows give the same bytes, at any time."""
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for whoever else is here; the system gives the place of a process that dies to the next."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
