"""What several tests read and none changes, built once a suite, whichever of its processes comes first."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

State = dict[str, tuple[int, int]]
"""Size and time of every file."""


class Shelf:
    """Folders that are built once.

    Args:
        place: a folder of all processes of the suite.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._states: dict[Path, State] = {}
        place.mkdir(parents=True, exist_ok=True)

    def folder(self, name: str, build: Callable[[Path], object]) -> Path:
        """The folder of this name, which ``build`` fills where no process has filled it yet."""
        folder, done = self.place / name, self.place / f"{name}.json"
        with FileLock(self.place / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a build that failed
                folder.mkdir()
                build(folder)
                done.write_text(json.dumps(_state(folder)), "utf-8")
        found: dict[str, list[int]] = json.loads(done.read_text("utf-8"))
        self._states[folder] = {path: (size, time) for path, (size, time) in found.items()}
        return folder

    def changed(self) -> list[str]:
        """The files in folders that were asked for here which are not as they were built."""
        return [
            str(folder / path)
            for folder, before in self._states.items()
            for path in sorted({path for path, _ in before.items() ^ _state(folder).items()})
        ]


def _state(folder: Path) -> State:
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                described = os.stat(path)
                found[os.path.relpath(path, folder)] = (described.st_size, described.st_mtime_ns)
    return found
