"""Fresh processes: what they cost, what they print, and the commands of leantune."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT

COMMAND = (sys.executable, "-m", "leantune")
"""What a command line of leantune begins with."""


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
            raise failure(process.returncode, command, log.read_text("utf-8", errors="replace"))
        return Outcome(time.perf_counter() - started, usage.ru_maxrss * 1024)

    def output_of(self, command: Sequence[str]) -> str:
        """What ``command`` prints.

        Raises:
            RuntimeError: with its errors, if it fails.
        """
        return output_of(command, env=os.environ | self.environment, cwd=self.cwd)


def workplace(folder: Path) -> Workplace:
    """Processes that find these benchmarks, ask no hub and leave no cache behind; it prints what is said."""
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - started:5.0f} s  {text}", flush=True)

    search_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "huggingface"), "PYTHONPATH": search_path}
    return Workplace(folder, environment, say)


def output_of(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
) -> str:
    """What ``command`` prints.

    Raises:
        RuntimeError: with its errors, if it fails.
    """
    done = subprocess.run(command, env=env, cwd=cwd, input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise failure(done.returncode, command, done.stderr)
    return done.stdout


def failure(code: int, command: Sequence[str], output: str) -> RuntimeError:
    """The error of a process that failed, with the end of its output."""
    tail = "\n".join(output.splitlines()[-15:])
    return RuntimeError(f"exit code {code} of: {' '.join(command)}\n{tail}")


def wait_for(
    process: subprocess.Popen[bytes],
    is_there: Callable[[], bool],
    *,
    pause_s: float = 0.002,
    patience_s: float = float("inf"),
) -> bool:
    """Look again and again: whether something is there before ``process`` ends.

    Raises:
        TimeoutError: neither happens for ``patience_s``.
    """
    until = time.monotonic() + patience_s
    while process.poll() is None:
        if is_there():
            return True
        if time.monotonic() > until:
            raise TimeoutError(f"nothing for {patience_s:.0f} s: {process.args}")
        time.sleep(pause_s)
    return False


def assignments(keys: Mapping[str, Any]) -> list[str]:
    """Keys of a recipe as words of a command line."""
    return [f"{key}={value}" for key, value in keys.items()]


def train(output: Path, **keys: Any) -> dict[str, Any]:
    """``leantune train`` with these keys into a folder that may be there; returns its ``record.json``."""
    output_of([*COMMAND, "train", *assignments(keys), f"output={output}", "--overwrite"])
    record: dict[str, Any] = json.loads((output / "record.json").read_text("utf-8"))
    return record
