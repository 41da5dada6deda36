"""What libraries raise over files that were changed since they were written, as one error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leantune.errors import CheckpointError, LeantuneError, UsageError, first_line
from leantune.system.memory import is_out_of_memory


@contextmanager
def explained_damage(folder: Path | str, *, is_of_run: bool = True) -> Iterator[None]:
    """Turn whatever a library raises while ``folder`` is read into an error that names it.

    Args:
        folder: what is read.
        is_of_run: whether leantune wrote it: then what would be a user's mistake elsewhere is damage, too.

    transformers, safetensors and tokenizers check little of what they read and raise what they come upon:
    ``KeyError`` for an activation, ``ZeroDivisionError`` for no heads. ``--debug`` shows it.

    Raises:
        CheckpointError: with the type and the first line of what was raised.
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
