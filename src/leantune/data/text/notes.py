"""Notes about how files were read where there was a choice, such as the encoding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from leantune.data.text.readers.delimited import DelimitedTable
from leantune.data.text.readers.encodings import WINDOWS
from leantune.data.text.readers.plain_lines import PlainLines
from leantune.data.text.readers.text_folder import TextFolder
from leantune.data.text.readers.workbook import WorkbookTable
from leantune.data.text.table import Table
from leantune.system.messages import listed, place_name

_AS_WINDOWS = "not UTF-8, read as cp1252"


class Note(NamedTuple):
    """A file or folder and how it was read."""

    name: str
    what: str


def notes_of(table: Table, name: str) -> Iterator[Note]:
    """Yield the notes about the table of one location."""
    if isinstance(table, TextFolder):
        yield from _of_folder(table, name)
    if isinstance(table, DelimitedTable | PlainLines) and table.encoding == WINDOWS:
        yield Note(name, _AS_WINDOWS)
    if isinstance(table, PlainLines):
        yield Note(name, "no header, read as one text a line")
    if isinstance(table, DelimitedTable) and not table.is_as_named:
        yield Note(name, f"columns separated by {table.separated_by}")
    if isinstance(table, WorkbookTable) and table.num_sheets > 1:
        yield Note(name, f"only the first of {table.num_sheets} sheets is read, {place_name(table.sheet)}")


def note_lines(notes: Iterable[Note]) -> tuple[str, ...]:
    """Return one line per distinct note, with the first file it applies to and the number of others."""
    names: dict[str, list[str]] = {}
    for note in notes:
        names.setdefault(note.what, []).append(note.name)
    return tuple(
        f"{first}{f' and {len(others):,} more' if others else ''}: {what}"
        for what, (first, *others) in names.items()
    )


def _of_folder(table: TextFolder, name: str) -> Iterator[Note]:
    classes = dict.fromkeys(file.label for file in table.files)
    place = f" of the classes {listed(classes)}" if table.label else ""
    yield Note(name, f"{len(table.files):,} texts{place}")
    yield from (Note(file.content.name, _AS_WINDOWS) for file in table.files if file.encoding == WINDOWS)
