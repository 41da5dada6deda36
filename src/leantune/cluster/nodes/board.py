"""An actor through which the workers of a run and the command exchange messages."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from leantune.errors import LeantuneError


class Board:
    """A Ray actor that passes output lines and errors to the command, and a stop request to the workers."""

    def __init__(self) -> None:
        self._attempts = 0
        self._lines: list[str] = []
        self._errors: dict[int, LeantuneError] = {}
        self._signal: int | None = None

    def begin(self) -> int:
        """Count a start of all workers, and return its number from 1."""
        self._attempts += 1
        return self._attempts

    def say(self, line: str) -> None:
        """Add a line for the command's terminal."""
        self._lines.append(line)

    def fail(self, rank: int, error: LeantuneError) -> None:
        """Record an error that a restart would not fix."""
        self._errors[rank] = error

    def failure(self) -> LeantuneError | None:
        """Return the error of the process with the lowest rank, or None."""
        return self._errors[min(self._errors)] if self._errors else None

    def news(self) -> tuple[list[str], LeantuneError | None]:
        """Return the lines since the last call, and the error or None."""
        lines, self._lines = self._lines, []
        return lines, self.failure()

    def stop(self, signal_number: int) -> None:
        """Ask the workers to save a checkpoint and stop."""
        self._signal = signal_number

    def signal(self) -> int | None:
        """Return the signal that the command received, or None."""
        return self._signal


class Lines(io.TextIOBase):
    """A text stream that passes each line to a function."""

    def __init__(self, say: Callable[[str], Any]) -> None:
        self._say, self._begun = say, ""

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Pass each complete line to the function."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._say(line)
        return len(text)
