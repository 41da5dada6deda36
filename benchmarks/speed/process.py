"""Fresh processes, one at a time."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a process cost from start to end."""

    wall_s: float
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where processes run and who is told."""

    folder: Path
    """For everything that is thrown away at the end."""
    environment: Mapping[str, str]
    """On top of that of this process."""
    say: Callable[[str], None]
    cwd: Path | None = None
    """Folder that processes start in; None: that of this process."""

    def run(self, command: Sequence[str]) -> Outcome:
        """Run ``command`` to its end.

        The peak is what Linux counts for the process; this one must stay small, because a child begins
        with the peak of its parent.

        Raises:
            RuntimeError: with the last lines of its output, if it fails.
        """
        log = self.folder / "output.log"
        started = time.perf_counter()
        with open(log, "wb") as sink:
            process = subprocess.Popen(
                command,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment,
                cwd=self.cwd,
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            tail = "\n".join(log.read_text("utf-8", errors="replace").splitlines()[-15:])
            raise RuntimeError(f"exit code {process.returncode} of: {' '.join(command)}\n{tail}")
        return Outcome(time.perf_counter() - started, usage.ru_maxrss * 1024)

    def output_of(self, command: Sequence[str]) -> str:
        """What ``command`` prints.

        Raises:
            RuntimeError: with its errors, if it fails.
        """
        done = subprocess.run(
            command, env=os.environ | self.environment, cwd=self.cwd, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode} of: {' '.join(command)}\n{done.stderr}")
        return done.stdout
