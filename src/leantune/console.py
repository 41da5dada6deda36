"""The terminal without the markup of rich: class names and paths are printed as they are."""

from __future__ import annotations

from rich.console import Console

WIDTH_OF_A_FILE = 240
"""Where no window ends a line, tables need not be broken."""


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Standard output, or standard error for progress; ``quiet`` prints nothing."""
    made = Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = WIDTH_OF_A_FILE
    return made
