"""The terminal without the markup of rich: class names and paths are printed as they are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from leantune.errors import first_line

WIDTH_OF_A_FILE = 240
"""Where no window ends a line, tables need not be broken."""


class _Console(Console):
    """rich would end the process with code 1 where nobody reads any more."""

    def on_broken_pipe(self) -> None:
        if self.stderr:
            self.quiet = True  # who closes the progress may still want the result
        else:
            raise BrokenPipeError


class LoggedConsole(_Console):
    """A console whose lines are also in a file, each with its time, whether they are shown or not."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._log: Path | None = None
        self._lines: list[str] = []

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print ``objects``; texts among them go to the log, too."""
        super().print(*objects, **settings)
        text = " ".join(each for each in objects if isinstance(each, str))
        if text:
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            self._lines += [f"{now} {line}\n" for line in text.splitlines()]
            self._write()

    def log_to(self, path: Path) -> None:
        """Append to ``path`` what was printed so far, and what will be."""
        self._log = path
        self._write()

    def _write(self) -> None:
        if self._log is None:
            return
        lines, self._lines = self._lines, []
        try:
            with self._log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(lines)
        except OSError as error:
            # what is lost is a line for people; a disk that is full stops the run elsewhere
            self._log = None
            super().print(f"warning: the log is not written any more: {first_line(error)}", soft_wrap=True)


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Standard output, or standard error for progress; ``quiet`` prints nothing."""
    made = (LoggedConsole if stderr else _Console)(
        stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False
    )
    if not made.is_terminal:
        made.width = WIDTH_OF_A_FILE
    return made
