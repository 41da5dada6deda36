"""The terminal without the markup of rich: class names and paths are printed as they are."""

from __future__ import annotations

from rich.console import Console


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Standard output, or standard error for progress; ``quiet`` prints nothing."""
    return Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)
