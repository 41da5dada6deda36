"""The terminal without the markup of rich: class names and paths are printed as they are."""

from __future__ import annotations

from rich.console import Console

WIDTH_OF_A_FILE = 240
"""Where no window ends a line, tables need not be broken."""


class _Console(Console):
    """rich would end the process with code 1 where nobody reads any more."""

    def on_broken_pipe(self) -> None:
        if self.stderr:
            self.quiet = True  # who closes the progress may still want the result
        else:
            raise BrokenPipeError


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Standard output, or standard error for progress; ``quiet`` prints nothing."""
    made = _Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = WIDTH_OF_A_FILE
    return made
