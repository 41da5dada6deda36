"""The errors that leantune raises, and their exit codes.

LeantuneError
├── UsageError          2   an invalid command, recipe, budget or schedule; a file, model or run that does not exist
│   └── MissingFileError     a file of rows that does not exist
├── DataError           3   an invalid row, column, label or encoding
├── UnsafeFileError     4   a file that could run code, which is refused
├── CheckpointError     5   a checkpoint, an adapter or a model that is incomplete or damaged
├── ResourceError       6   disk or memory
├── DivergedError       7   a loss that is not finite, ranks that never moved
├── DistributedError    8   processes that disagree
└── Interrupted   130/143   a signal; training saves a checkpoint first

The command line prints one line, ``leantune: error: FILE:ROW:COLUMN: what was found, what was expected, what to do``,
and exits with the code. Tracebacks appear only with ``--debug``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any


class LeantuneError(Exception):
    """An error that a user can act on; its text is one complete line."""

    exit_code = 1


class UsageError(LeantuneError):
    """An invalid command, recipe value, budget or schedule, or a file, model or run that does not exist."""

    exit_code = 2


class MissingFileError(UsageError):
    """A file name, or a pattern of file names, that matches no file."""


class DataError(LeantuneError):
    """An invalid row, column, label or encoding.

    Args:
        message: what was found, what was expected, what to do.
        path: the file, as the user named it.
        row: the line of a text file on which the row begins (1-based, the header is line 1), or the 1-based row
            number in a table.
        column: the column's name.
        rows: the first rows that the message is about, if there are several; they are listed at its end.
        num_more_rows: the number of rows after these.
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | None = None,
        row: int | None = None,
        column: str | None = None,
        rows: Sequence[int | str] = (),
        num_more_rows: int = 0,
    ) -> None:
        self.message, self.path, self.row, self.column = message, path, row, column
        self.rows, self.num_more_rows = tuple(rows), num_more_rows
        place = ":".join(str(part) for part in (path, row, column) if part is not None)
        text = f"{place}: {message}" if place else message
        listed = ", ".join([*map(str, rows), *["..."] * (num_more_rows > 0)])
        super().__init__(f"{text}. Rows: {listed}" if rows else text)


class UnsafeFileError(LeantuneError):
    """A file that could run code, or that only a reader that runs code could open."""

    exit_code = 4


class CheckpointError(LeantuneError):
    """A checkpoint, adapter or model folder that is incomplete, damaged or belongs to another run."""

    exit_code = 5


class ResourceError(LeantuneError):
    """Not enough disk or memory."""

    exit_code = 6


class DivergedError(LeantuneError):
    """The loss is not finite, or the ranks did not do what the schedule says."""

    exit_code = 7


class DistributedError(LeantuneError):
    """Processes of one run disagree, or one of them failed."""

    exit_code = 8


class Interrupted(LeantuneError):  # noqa: N818 - a signal is not an error, but it ends the run
    """A signal stopped the run after the current step was saved.

    Args:
        message: where the checkpoint is saved and how to continue.
        signal_number: the signal; the exit code is 128 plus its number (130 or 143).
    """

    def __init__(self, message: str, *, signal_number: int) -> None:
        self.exit_code = 128 + signal_number
        super().__init__(message)

    def __reduce__(self) -> Any:  # so that it can be passed between processes
        return partial(type(self), signal_number=self.exit_code - 128), self.args


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
