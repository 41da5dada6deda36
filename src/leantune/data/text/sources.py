"""Opens the location that the user wrote as one table, chosen by what the location is and what it contains."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from leantune.data.text.chain import chain
from leantune.data.text.columns import Columns, LabelUse, find_columns
from leantune.data.text.notes import Note, notes_of
from leantune.data.text.readers import hub
from leantune.data.text.readers.arrow import open_arrow, open_row_group
from leantune.data.text.readers.content import PACKING_SUFFIXES, Content, open_content
from leantune.data.text.readers.delimited import open_delimited
from leantune.data.text.readers.json_rows import JsonTable, open_json
from leantune.data.text.readers.pickles import open_pickle
from leantune.data.text.readers.plain_lines import SUFFIX as PLAIN_SUFFIX
from leantune.data.text.readers.plain_lines import open_plain_lines
from leantune.data.text.readers.saved_dataset import is_saved_dataset, open_saved_dataset
from leantune.data.text.readers.sniff import Kind, sniff
from leantune.data.text.readers.text_folder import open_text_folder
from leantune.data.text.readers.workbook import WorkbookTable, open_workbook
from leantune.data.text.table import Table
from leantune.errors import DataError, MissingFileError
from leantune.system.messages import MAX_COMPARED, nearest, place_name

_FILE_SUFFIXES = (
    *(".csv", ".tsv", ".tab", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather"),
    *(".pkl", ".pickle", ".xlsx", ".xls"),
    *PACKING_SUFFIXES,
)


@dataclass(frozen=True, slots=True)
class Source:
    """A table and its origin.

    Args:
        name: the name of the source in messages.
        table: the rows.
        columns: the columns to read, all of which the table has.
        contents: the files that the table is read from, if any.
        notes: how the files were read where there was a choice.
        is_listing: whether the checksum covers the file names as well as their contents.
    """

    name: str
    table: Table
    columns: Columns
    contents: tuple[Content, ...] = ()
    notes: tuple[Note, ...] = ()
    is_listing: bool = False


def open_source(location: str, columns: Columns, labels: LabelUse, split: str) -> Source:
    """Open the table at a location; see `leantune.data.text.read.open_examples`."""
    if location != "-" and not os.path.lexists(location):
        if glob.has_magic(location):
            return _open_pattern(location, columns, labels, split)
        hub_name = hub.parse_hub_name(location)
        if hub_name is not None and not location.lower().endswith(_FILE_SUFFIXES):
            table = hub.open_hub(location, hub_name, split)
            return _source(location, table, columns, labels)
    if location != "-":
        _check_is_there(location)
    if os.path.isdir(location):
        return _open_folder(Path(location), columns, labels, split)
    return _open_file(location, columns, labels, split)


def open_named_file(path: Path, name: str, columns: Columns) -> Source:
    """Open the rows of one file without their labels.

    Args:
        path: the file, or its copy on this machine.
        name: the name of the file in messages.
        columns: the columns to read.

    Raises:
        DataError: as for `leantune.data.text.read.open_examples`.
        UnsafeFileError: likewise.
    """
    return _open_content(replace(open_content(str(path)), name=name), columns, "ignore", "test")


def open_row_group_of(
    open_file: Callable[[], BinaryIO], name: str, columns: Columns, *, row_group: int, first_row: int
) -> Source:
    """Open the rows of one row group of a Parquet file without their labels; see `arrow.open_row_group`."""
    table = open_row_group(open_file, name, row_group=row_group, first_row=first_row)
    return _source(name, table, columns, "ignore")


def open_table(location: str) -> tuple[str, Table]:
    """Open any file of rows with all its columns.

    Returns:
        The name of the file in messages, and the table.

    Raises:
        DataError: the file is empty, damaged or of an unsupported kind.
        UnsafeFileError: the file could run code, or is an archive.
        MissingFileError: the file does not exist.
    """
    if location != "-":
        _check_is_there(location)
    content = open_content(location)
    return content.name, _table(content, sniff(content), Columns(), "ignore", "train")


def _check_is_there(location: str) -> None:
    """Refuse a location that does not exist; other failures are reported when it is opened."""
    try:
        os.stat(location)
    except FileNotFoundError:
        place = "" if os.path.isabs(location) else f" in {os.getcwd()}"
        hint = nearest(os.path.basename(location), _names_beside(location))
        message = f"{place_name(location)}: no such file{place}{hint}: check the name and the folder"
        raise MissingFileError(message) from None
    except (OSError, ValueError):
        return


def _names_beside(location: str) -> list[str]:
    """Return the names in the folder of a missing file; empty if the folder cannot be read."""
    try:
        with os.scandir(os.path.dirname(location) or ".") as entries:
            return [entry.name for entry in itertools.islice(entries, MAX_COMPARED)]
    except OSError:
        return []


def files_of(location: str) -> tuple[str, ...]:
    """Return the files that a pattern matches, sorted by name; a location that is not a pattern as it is."""
    if os.path.lexists(location) or not glob.has_magic(location):
        return (location,)
    return tuple(sorted(glob.glob(location, recursive=True)))


def _source(name: str, table: Table, columns: Columns, labels: LabelUse) -> Source:
    paths = table.nested if isinstance(table, JsonTable) else ()
    sheets = table.other_sheets if isinstance(table, WorkbookTable) else dict
    return Source(name, table, find_columns(table.columns, columns, labels, name, paths=paths, sheets=sheets))


def _open_pattern(location: str, columns: Columns, labels: LabelUse, split: str) -> Source:
    """Open the rows of all matching files, one file after the other."""
    name = place_name(location)
    files = files_of(location)
    if not files:
        place = "" if os.path.isabs(location) else f" in {os.getcwd()}"
        raise MissingFileError(f"{name}: no file matches this pattern{place}: check the name and the folder")
    folder = next((file for file in files if os.path.isdir(file)), None)
    if folder is not None:
        raise DataError(
            f"{place_name(folder)} is a directory, expected only files: write a pattern that matches only files",
            path=name,
        )
    if len(files) == 1:
        return _open_file(files[0], columns, labels, split)
    sources: list[Source] = []
    for file in files:  # all files have the label in the same column as the first
        chosen = sources[0].columns if sources else columns
        sources.append(_open_file(file, chosen, labels, split))
    read = sources[0].columns
    return Source(
        name,
        chain([source.name for source in sources], [source.table for source in sources], read.named()),
        read,
        tuple(content for source in sources for content in source.contents),
        (Note(name, f"{len(files):,} files"), *(note for source in sources for note in source.notes)),
        is_listing=True,
    )


def _open_folder(folder: Path, columns: Columns, labels: LabelUse, split: str) -> Source:
    name = place_name(str(folder))
    if is_saved_dataset(folder):
        saved, contents = open_saved_dataset(folder, split)
        return replace(_source(name, saved, columns, labels), contents=contents)
    table = open_text_folder(folder, columns, labels, split)
    return replace(
        _source(name, table, columns, labels),
        contents=tuple(file.content for file in table.files),
        notes=tuple(notes_of(table, name)),
        is_listing=True,
    )


def _open_file(location: str, columns: Columns, labels: LabelUse, split: str) -> Source:
    return _open_content(open_content(location), columns, labels, split)


def _open_content(content: Content, columns: Columns, labels: LabelUse, split: str) -> Source:
    table = _table(content, sniff(content), columns, labels, split)
    notes = tuple(notes_of(table, content.name))
    return replace(_source(content.name, table, columns, labels), contents=(content,), notes=notes)


def _table(content: Content, kind: Kind, columns: Columns, labels: LabelUse, split: str) -> Table:
    if kind == "delimited":
        lines = open_plain_lines(content, columns, labels) if content.suffix == PLAIN_SUFFIX else None
        return lines or open_delimited(content, columns.text_name)
    if kind in ("jsonlines", "json list"):
        return open_json(content, kind, columns.named())
    if kind == "pickle":
        return open_pickle(content, split)
    if kind == "xlsx":
        return open_workbook(content)
    return open_arrow(content, kind)
