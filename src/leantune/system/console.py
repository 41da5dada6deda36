"""Consoles that print text without interpreting rich markup, so that class names and paths appear as they are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from leantune.errors import first_line
from leantune.system.notebook import CellOutput

WIDTH_OF_A_FILE = 240
"""Width of output that is not a terminal, so that tables need not be wrapped."""
WIDTH_OF_A_CELL = 110
"""Width of output in a notebook."""


class _Console(Console):
    """A console that survives a closed pipe; rich itself would end the process with code 1."""

    def on_broken_pipe(self) -> None:
        if self.stderr:
            self.quiet = True  # a reader who closes the progress may still want the result
        else:
            raise BrokenPipeError


class LoggedConsole(_Console):
    """A console that also writes its lines to a log file with the time, even if they are not shown."""

    def __init__(self, *, is_verbose: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self._is_verbose = is_verbose
        self._log: Path | None = None
        self._lines: list[str] = []

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print ``objects`` and also write the texts among them to the log."""
        super().print(*objects, **settings)
        self._note(" ".join(each for each in objects if isinstance(each, str)))

    def detail(self, text: str) -> None:
        """Write a line to the log, and print it with ``--verbose`` only."""
        if self._is_verbose:
            super().print(text, soft_wrap=True)
        self._note(text)

    def _note(self, text: str) -> None:
        if text:
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            self._lines += [f"{now} {line}\n" for line in text.splitlines()]
            self._write()

    def log_to(self, path: Path) -> None:
        """Append earlier and later lines to ``path``."""
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
            # losing a log line is acceptable; a full disk stops the run elsewhere
            self._log = None
            super().print(f"warning: the log is not written any more: {first_line(error)}", soft_wrap=True)


def console(*, stderr: bool = False, quiet: bool = False, verbose: bool = False) -> Console:
    """Return a console for standard output, or for standard error.

    Args:
        stderr: whether it is for standard error.
        quiet: print nothing.
        verbose: also print details.
    """
    settings: dict[str, Any] = {"quiet": quiet, "markup": False, "emoji": False, "highlight": False}
    if Console().is_jupyter:
        settings |= {"file": CellOutput(), "width": WIDTH_OF_A_CELL, "color_system": None}
        settings |= {"force_jupyter": False, "force_terminal": True}
    made = LoggedConsole(is_verbose=verbose, stderr=True, **settings) if stderr else _Console(**settings)
    if not made.is_terminal:
        made.width = WIDTH_OF_A_FILE
    return made


def print_detail(console: Console, text: str) -> None:
    """Print a line that few users need: on a console for progress only with ``--verbose``."""
    if isinstance(console, LoggedConsole):
        console.detail(text)
    else:
        console.print(text, soft_wrap=True)
