"""Reads and writes a run's ``rows_to_check.jsonl``: a few rows with their texts, used only by the report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from leantune.config.record.run import to_json
from leantune.errors import CheckpointError
from leantune.system.atomic import write_text
from leantune.system.file_names import entry_of
from leantune.system.json_files import parse_json

ROWS_TO_CHECK = "rows_to_check.jsonl"
MAX_CHARACTERS = 300
"""Number of characters that each text and each second text is cut to."""
MAX_NEAR_CHARACTERS = 160
"""Number of characters that each nearby training text is cut to."""
MAX_BYTES = 1 << 20
"""Size in bytes above which the file is not read."""
MAX_ROW = 1 << 53

Part = Literal["train", "validation", "test"]
Finding = Literal["wrong", "equal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NearRow:
    """A training row for which the classifier computes a similar vector."""

    row: int
    """0-based row in the source of the training rows."""
    label: str
    """The given label; several are joined by ``|``."""
    cosine: float
    """Cosine similarity of the two rows' inputs to the output layer, from -1 to 1."""
    text: str
    pair: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowToCheck:
    """A row that the model gets wrong, or whose text also occurs with another label."""

    finding: Finding
    part: Part
    row: int
    """0-based row in the source of its part."""
    text: str
    pair: str | None = None
    is_decoded: bool | None = None
    """Whether the texts were decoded from tokens because the source could not be read again."""
    label: str
    """The given label; several are joined by ``|``, and no label is an empty text."""
    predicted: str | None = None
    """The predicted label; several are joined by ``|``, and no label is an empty text."""
    probability: float | None = None
    """Probability of the predicted class; for rows with several labels, that of `of_class`."""
    of_class: str | None = None
    """For rows with several labels, the class on which the model contradicts the label most confidently."""
    is_suspect: bool | None = None
    """Whether the model confidently contradicts the label."""
    group: int | None = None
    """Number shared by rows with equal texts."""
    nearest: list[NearRow] | None = None
    """The nearest training rows, nearest first."""
    searched: int | None = None
    """Number of training rows among which the nearest were searched."""


def write_rows_to_check(run: Path, rows: Iterable[RowToCheck]) -> None:
    """Replace the rows of a run atomically.

    Raises:
        ResourceError: the disk is full or fails.
    """
    lines = [json.dumps(to_json(row), ensure_ascii=False) + "\n" for row in rows]
    write_text(entry_of(run, ROWS_TO_CHECK), "".join(lines))


def read_rows_to_check(run: Path) -> tuple[RowToCheck, ...]:
    """Read the rows of a run; runs of earlier versions have none.

    Raises:
        CheckpointError: the file is damaged, or larger than any that leantune writes.
        UnsafeFileError: the file is a link that leads out of the run.
        OSError: the file cannot be read.
    """
    path = entry_of(run, ROWS_TO_CHECK)
    if not path.is_file():
        return ()
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise CheckpointError(f"{path}: damaged: more than {MAX_BYTES:,} bytes")
    lines = content.split(b"\n")[:-1]
    rows = tuple(
        parse_json(line, RowToCheck, f"{path}:{number}") for number, line in enumerate(lines, start=1)
    )
    for number, row in enumerate(rows, start=1):
        near = row.nearest or []
        is_sound = 0 <= row.row < MAX_ROW and 0 <= (row.probability or 0) <= 1
        if not (is_sound and all(0 <= each.row < MAX_ROW and -1 <= each.cosine <= 1 for each in near)):
            raise CheckpointError(f"{path}:{number}: damaged: a number is out of range")
    return rows


def shown_text(text: str, limit: int = MAX_CHARACTERS) -> str:
    """Return the beginning of a text, with characters that UTF-8 cannot encode replaced."""
    cut = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return cut.encode("utf-8", "replace").decode("utf-8")
