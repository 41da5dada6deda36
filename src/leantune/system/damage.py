"""Turns the errors that libraries raise for damaged files into one error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leantune.errors import CheckpointError, LeantuneError, UsageError, first_line
from leantune.system.memory import is_out_of_memory


@contextmanager
def explained_damage(folder: Path | str, *, is_of_run: bool = True) -> Iterator[None]:
    """Turn any error that a library raises while reading ``folder`` into an error that names the folder.

    transformers, safetensors and tokenizers check little of what they read and raise arbitrary errors, such as
    ``KeyError`` for an unknown activation or ``ZeroDivisionError`` for no heads. ``--debug`` shows the original error.

    Args:
        folder: the folder that is read.
        is_of_run: whether leantune wrote the folder; UsageError then counts as damage, too.

    Raises:
        CheckpointError: a library raised an error; the message has its type and first line.
    """
    try:
        yield
    except LeantuneError as error:
        if not (is_of_run and isinstance(error, UsageError)):
            raise
        raise CheckpointError(f"{folder}: cannot be loaded: {first_line(error)}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        kind = type(error).__name__
        raise CheckpointError(f"{folder}: cannot be loaded: {kind}: {first_line(error)}") from error
