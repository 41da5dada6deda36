"""What the workers of a run and the command that started them tell each other: an actor between them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from leantune.errors import LeantuneError


class Board:
    """An actor of Ray: lines and errors go to the command, the wish to stop goes to the workers."""

    def __init__(self) -> None:
        self._attempts = 0
        self._lines: list[str] = []
        self._errors: dict[int, LeantuneError] = {}
        self._signal: int | None = None

    def begin(self) -> int:
        """Count another start of all workers; the first is 1."""
        self._attempts += 1
        return self._attempts

    def say(self, line: str) -> None:
        """A line for the terminal of the command."""
        self._lines.append(line)

    def fail(self, rank: int, error: LeantuneError) -> None:
        """An error that another start would not mend."""
        self._errors[rank] = error

    def failure(self) -> LeantuneError | None:
        """The error of the first of the processes that had one."""
        return self._errors[min(self._errors)] if self._errors else None

    def news(self) -> tuple[list[str], LeantuneError | None]:
        """The lines since the last call, and the error."""
        lines, self._lines = self._lines, []
        return lines, self.failure()

    def stop(self, signal_number: int) -> None:
        """Ask the workers to save a checkpoint and end."""
        self._signal = signal_number

    def signal(self) -> int | None:
        """The signal that the command got, if any."""
        return self._signal


class Lines(io.TextIOBase):
    """A file whose lines are given to a function."""

    def __init__(self, say: Callable[[str], Any]) -> None:
        self._say, self._begun = say, ""

    def writable(self) -> bool:
        """Whether it can be written: yes."""
        return True

    def write(self, text: str) -> int:
        """Give each line that is whole to the function."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._say(line)
        return len(text)
