"""``rows_to_check.jsonl`` of a run: a few rows with their texts for the report, and nothing that any command needs."""

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
"""A text is cut to so many, and so is its second text."""
MAX_NEAR_CHARACTERS = 160
"""The same of a training text that is near to one."""
MAX_BYTES = 1 << 20
"""A larger file is not read."""
MAX_ROW = 1 << 53

Part = Literal["train", "validation", "test"]
Finding = Literal["wrong", "equal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NearRow:
    """A training row to which the classifier gives a similar vector."""

    row: int
    """In the source of the training rows, from 0."""
    label: str
    """As it was given; several are joined by ``|``."""
    cosine: float
    """Cosine similarity of the inputs of the output layer, from -1 to 1."""
    text: str
    pair: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowToCheck:
    """A row that the model gets wrong, or whose text is there under another label, too."""

    finding: Finding
    part: Part
    row: int
    """In the source of the part, from 0."""
    text: str
    pair: str | None = None
    is_decoded: bool | None = None
    """Whether the texts are put together from tokens, as the source could not be read again."""
    label: str
    """Several are joined by ``|``; none is an empty text."""
    predicted: str | None = None
    """Several are joined by ``|``; none is an empty text."""
    probability: float | None = None
    """What the model gave to the predicted class; of several labels a row to `of_class`."""
    of_class: str | None = None
    """For rows with several labels, the class that the model contradicts with most confidence."""
    is_suspect: bool | None = None
    """Whether the model contradicts the label with confidence."""
    group: int | None = None
    """Rows with the same number have equal texts."""
    nearest: list[NearRow] | None = None
    """The nearest training rows, the nearest first."""
    searched: int | None = None
    """Training rows that they were looked for among."""


def write_rows_to_check(run: Path, rows: Iterable[RowToCheck]) -> None:
    """Replace the rows of a run, whole or not at all.

    Raises:
        ResourceError: if the disk is full or fails.
    """
    lines = [json.dumps(to_json(row), ensure_ascii=False) + "\n" for row in rows]
    write_text(entry_of(run, ROWS_TO_CHECK), "".join(lines))


def read_rows_to_check(run: Path) -> tuple[RowToCheck, ...]:
    """The rows of a run; none where an earlier version wrote none.

    Raises:
        CheckpointError: if the file is damaged, or larger than any that leantune writes.
        UnsafeFileError: if it is a link that leads out of the run.
        OSError: if it cannot be read.
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
    """The beginning of a text, as UTF-8 can hold it."""
    cut = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return cut.encode("utf-8", "replace").decode("utf-8")
