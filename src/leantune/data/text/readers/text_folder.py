"""Reads a folder with one folder of ``.txt`` files for each class, such as ``pos/*.txt`` and ``neg/*.txt``.

Each file is one text. Classes and files are sorted by name. Hidden entries are skipped, and anything else is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from leantune.data.text.columns import Columns, LabelUse
from leantune.data.text.readers.content import PACKING_SUFFIXES, Content, open_content, reading
from leantune.data.text.readers.encodings import text_encoding
from leantune.data.text.readers.lines import text_blocks
from leantune.data.text.readers.plain_lines import SUFFIX
from leantune.data.text.table import CellBatch, NamesInRows, Place
from leantune.errors import DataError, UsageError
from leantune.system.messages import listed, place_name, shown

MAX_TEXT_CHARS = 2**24

_SPLITS = ("train", "validation", "test")
_EXPECTED = (
    "expected a file, a folder written by save_to_disk (with state.json), or a folder that contains only a folder of "
    ".txt files for each class"
)
_SUFFIXES = (SUFFIX, *(SUFFIX + packing for packing in PACKING_SUFFIXES))


@dataclass(frozen=True, slots=True)
class TextFile:
    """One text file and the name of its folder."""

    content: Content
    encoding: str
    label: str


@dataclass(frozen=True, slots=True)
class TextFolder(NamesInRows):
    """The texts of a folder."""

    files: tuple[TextFile, ...]
    text: str
    label: str | None
    """Names of the text and label columns; the label is None if the texts have no classes."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The text column and, if there are classes, the label column."""
        return (self.text,) if self.label is None else (self.text, self.label)

    def batches(self, wanted: Sequence[str], batch_rows: int) -> Iterator[CellBatch]:
        """Yield at most ``batch_rows`` texts at a time; files are not read if only labels are wanted.

        Raises:
            DataError: a file is not a text.
        """
        for start in range(0, len(self.files), batch_rows):
            files = self.files[start : start + batch_rows]
            cells: dict[str, list[object]] = {}
            if self.text in wanted:
                cells[self.text] = [_text_of(file) for file in files]
            if self.label is not None and self.label in wanted:
                cells[self.label] = [file.label for file in files]
            yield CellBatch([_place(file) for file in files], cells)

    def locate(self, index: int) -> Place:
        """Return the file."""
        return _place(self.files[index])


def open_text_folder(folder: Path, columns: Columns, labels: LabelUse, split: str) -> TextFolder:
    """Find the texts of a folder.

    Args:
        folder: a folder that contains class folders, split folders with class folders, or, if labels are ignored,
            texts.
        columns: the names to give the text and label columns.
        labels: whether classes are required.
        split: the split folder to read.

    Raises:
        DataError: the folder has no texts, or contains something else.
        UsageError: the folder has splits, but not this one.
    """
    folder = _of_split(folder, split)
    folders, files = _entries(folder)
    if folders and files:
        raise DataError(
            f"a directory with {listed((each.name for each in files), 3)} beside folders, {_EXPECTED}: name the file "
            "inside, or move everything that is not a class elsewhere",
            path=place_name(str(folder)),
        )
    if not folders:
        _check_flat(folder, files, labels)
        return TextFolder(tuple(_text_file(path, "") for path in files), columns.text_name, None)
    found = [_text_file(path, each.name) for each in folders for path in _files_of_class(each)]
    if not found:
        raise DataError(
            "folders without a .txt file in them: expected a text in each", path=place_name(str(folder))
        )
    return TextFolder(tuple(found), columns.text_name, columns.label_name)


def _of_split(folder: Path, split: str) -> Path:
    """Return the folder of the split if the folder contains splits with class folders, else the folder itself."""
    splits = [name for name in _SPLITS if (folder / name).is_dir() and _entries(folder / name)[0]]
    if not splits:
        return folder
    if split not in splits:
        raise UsageError(
            f"{place_name(str(folder))}: no folder {shown(split)} of class folders, it has {listed(splits)}: "
            f"give one of them, such as {place_name(str(folder / splits[0]))}"
        )
    return folder / split


def _check_flat(folder: Path, files: Sequence[Path], labels: LabelUse) -> None:
    name = place_name(str(folder))
    others = [path for path in files if not _is_text(path)]
    if others or not files:
        found = f"a directory with {shown(others[0].name)}" if others else "an empty directory"
        raise DataError(
            f"{found}, {_EXPECTED}: name the file inside, or a pattern such as '*.csv'", path=name
        )
    if labels == "required":
        raise DataError(f"a directory of .txt files without classes, {_EXPECTED}", path=name)


def _files_of_class(folder: Path) -> list[Path]:
    folders, files = _entries(folder)
    other = next((path for path in (*folders, *files) if path in folders or not _is_text(path)), None)
    if other is not None:
        found = "a directory" if other in folders else "a file of another kind"
        raise DataError(
            f"{found} in the folder of a class, expected .txt files: move it away, or name files by a pattern",
            path=place_name(str(other)),
        )
    return files


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders and the other entries of a folder, sorted by name and without hidden ones."""
    with reading(place_name(str(folder))), os.scandir(folder) as entries:
        seen = sorted(
            (entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name
        )
        folders = [Path(entry.path) for entry in seen if entry.is_dir()]
        return folders, [Path(entry.path) for entry in seen if not entry.is_dir()]


def _is_text(path: Path) -> bool:
    return path.name.lower().endswith(_SUFFIXES)


def _text_file(path: Path, label: str) -> TextFile:
    content = open_content(str(path), may_be_empty=True)
    return TextFile(content, text_encoding(content), label)


def _place(file: TextFile) -> Place:
    return Place(file.content.name, None)


def _text_of(file: TextFile) -> str:
    """Return the text of a file without its final line end."""
    pieces, size = [], 0
    for piece in text_blocks(file.content, file.encoding):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_TEXT_CHARS:
            raise DataError(
                f"a text of more than {MAX_TEXT_CHARS:,} characters: is it one text?", path=file.content.name
            )
    text = "".join(pieces)
    if "\0" in text:
        raise DataError("a NUL character, expected text: save it as UTF-8", path=file.content.name)
    return text.rstrip("\r\n")
