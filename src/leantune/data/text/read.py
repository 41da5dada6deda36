"""Examples from any supported source, in batches: the one reader of training, evaluation and prediction.

The content of a file decides how it is read, whatever its suffix says. Nothing is read into memory as
a whole but a pickle, which has no rows before its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from leantune.data.label_column import Label, LabelColumn
from leantune.data.text.cells import ids_of, texts_of
from leantune.data.text.columns import Columns as Columns
from leantune.data.text.columns import LabelUse as LabelUse
from leantune.data.text.notes import note_lines
from leantune.data.text.readers.content import listing_sha256
from leantune.data.text.sources import Source, open_named_file, open_row_group_of, open_source
from leantune.data.text.table import CellBatch, Row
from leantune.errors import DataError

_HASH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class ExampleBatch:
    """Consecutive examples; every list has one entry an example.

    Args:
        start: 0-based number of the first example.
        ids: as in the id column, or 0-based row numbers.
        texts: the texts.
        pairs: the second texts, or None without pairs.
        labels: canonical label texts, of several labels a row a tuple of them, or None when labels are not read.
    """

    start: int
    ids: list[str]
    texts: list[str]
    pairs: list[str] | None
    labels: list[Label] | None


@dataclass(frozen=True, slots=True)
class ExampleSource:
    """Labelled texts that can be read again and again.

    Args:
        name: the source as the user wrote it (``standard input`` for ``-``); used in messages.
        columns: the columns that are read; ``label`` is None when labels are not.
        label_names: the names of a ``datasets.ClassLabel`` in its order, else None.
        split: which part it is, if the file holds several.
        first_row: 0-based number of the first row, where the source is a part of a file.
    """

    name: str
    columns: Columns
    label_names: tuple[str, ...] | None
    split: str
    _source: Source
    _allow_blank: bool
    first_row: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """How the files were read, where there was a choice: lines to be printed."""
        return note_lines(self._source.notes)

    def batches(self, batch_rows: int = 4096) -> Iterator[ExampleBatch]:
        """All examples in order, at most ``batch_rows`` at a time.

        Raises:
            DataError: a row that is not what it must be, no rows at all, or a file that changed
                since it was opened. Batches already given stay valid only if none is raised.
        """
        labels = self._label_column(self.columns.label or "")
        start = self.first_row
        for cells in self._source.table.batches(self._wanted(), batch_rows):
            yield self._examples(start, cells, labels)
            start += len(cells.rows)
        self._check_all_read(start - self.first_row)

    def labels(self) -> list[Label] | None:
        """The label of every row in order, from the source itself; None if labels are not read.

        Raises:
            DataError: as `batches`.
        """
        column = self.columns.label
        if column is None:
            return None
        reader = self._label_column(column)
        labels: list[Label] = []
        for cells in self._source.table.batches([column], _HASH_ROWS):
            labels += reader.labels_of(cells.cells[column], cells.rows)
        self._check_all_read(len(labels))
        return labels

    def _label_column(self, column: str) -> LabelColumn:
        return LabelColumn(self.name, column, self.label_names, splits=self.columns.splits_labels)

    def locate(self, index: int) -> Row:
        """What to print for a 0-based row: a text file's line (read once more), or the 1-based row; with the file, if
        there are several.
        """
        return self._source.table.locate(index)

    def sha256(self) -> str:
        """Hex digest of the content.

        For a file it is what ``sha256sum`` prints, for several that of what it prints for them (by their names under
        the folder that holds them all), for a saved dataset that of its data files one after the other, for a hub
        dataset that of the columns that are read.
        """
        if self._source.is_listing:
            return listing_sha256(self._source.contents)
        digest = hashlib.sha256()
        for content in self._source.contents:
            content.update_hash(digest)
        if not self._source.contents:
            for cells in self._source.table.batches(self._wanted(), _HASH_ROWS):
                digest.update(repr(cells.cells).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()

    def _check_all_read(self, num_rows: int) -> None:
        for content in self._source.contents:
            content.check_unchanged()
        if num_rows == 0:
            raise DataError("no rows, expected at least one", path=self.name)

    def _wanted(self) -> list[str]:
        chosen = (self.columns.text, self.columns.text_pair, self.columns.label, self.columns.id)
        return list(dict.fromkeys(name for name in chosen if name is not None))

    def _examples(self, start: int, batch: CellBatch, labels: LabelColumn) -> ExampleBatch:
        columns, cells, rows = self.columns, batch.cells, batch.rows
        assert columns.text is not None
        return ExampleBatch(
            start,
            ids=list(map(str, range(start, start + len(rows))))
            if columns.id is None
            else ids_of(cells[columns.id], rows, self.name, columns.id),
            texts=texts_of(cells[columns.text], rows, self.name, columns.text, allow_blank=self._allow_blank),
            # The second text of a pair may be blank: a question without context is still a question.
            pairs=None
            if columns.text_pair is None
            else texts_of(cells[columns.text_pair], rows, self.name, columns.text_pair, allow_blank=True),
            labels=None if columns.label is None else labels.labels_of(cells[columns.label], rows),
        )


def open_examples(
    location: str, columns: Columns, *, labels: LabelUse, split: str = "train"
) -> ExampleSource:
    """Open labelled texts and find their columns; rows are read by ``batches``.

    Args:
        location: a CSV, TSV, JSON, Parquet, Arrow, .xlsx, .txt or pickle file (texts also as gz, bz2 or xz),
            a pattern of such files, a folder of ``.txt`` files for each class, a folder written by ``datasets``'
            ``save_to_disk``, ``-`` for standard input, or ``org/name[@config][:split]`` on the Hugging Face hub.
        columns: which columns hold what; of JSON also a path: ``data.text``.
        labels: ``"required"`` for training, where a text must not be blank either; ``"ignore"`` never looks.
        split: of a ``DatasetDict`` (saved or pickled), a folder or a hub dataset that does not name one.

    Raises:
        DataError: a file that is empty, damaged or of another kind, or a missing column.
        UnsafeFileError: a file that could run code, or an archive.
        UsageError: a file that is not there, a hub dataset or a split that cannot be loaded, or a library that is not
            installed.
        ResourceError: no room for standard input.
    """
    source = open_source(location, columns, labels, split)
    label = source.columns.label
    return ExampleSource(
        source.name,
        source.columns,
        label_names=source.table.class_names.get(label) if label else None,
        split=split,
        _source=source,
        _allow_blank=labels != "required",
    )


def open_texts(path: Path, name: str, columns: Columns) -> ExampleSource:
    """The texts of one file that messages call ``name``; labels are not read. See `open_examples`."""
    return _texts_of(open_named_file(path, name, columns), first_row=0)


def open_row_group_texts(
    open_file: Callable[[], BinaryIO], name: str, columns: Columns, *, row_group: int, first_row: int
) -> ExampleSource:
    """The texts of one row group of a Parquet file; labels are not read.

    Args:
        open_file: opens the file, which need not be on this machine.
        name: the file, for messages.
        columns: which columns hold what.
        row_group: its number, from 0.
        first_row: 0-based number of its first row in the file.

    Raises:
        DataError: a file that is damaged, or a missing column.
        UnsafeFileError: a column that could run code.
    """
    source = open_row_group_of(open_file, name, columns, row_group=row_group, first_row=first_row)
    return _texts_of(source, first_row=first_row)


def _texts_of(source: Source, *, first_row: int) -> ExampleSource:
    return ExampleSource(
        source.name,
        source.columns,
        label_names=None,
        split="test",
        _source=source,
        _allow_blank=True,
        first_row=first_row,
    )
