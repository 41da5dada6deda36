"""Reads examples in batches from any supported source, for training, evaluation and prediction.

The content of a file decides how it is read, not its suffix. Only pickles are read into memory as a whole, because
their rows cannot be read before the end of the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from leantune.config.problem_type import LabelType
from leantune.data.label_column import Label, LabelColumn
from leantune.data.text.cells import ids_of, is_blank, texts_of
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
    """Consecutive examples; every list has one entry per example.

    Args:
        start: 0-based number of the first example.
        ids: the values of the id column, or 0-based row numbers.
        texts: the texts.
        pairs: the second texts, or None without pairs.
        labels: canonical label texts, tuples of them for multi-label rows, or None if labels are not read. A row with a
            blank text may lack its label, which is then an empty text or tuple.
    """

    start: int
    ids: list[str]
    texts: list[str]
    pairs: list[str] | None
    labels: list[Label] | None

    @property
    def is_blank(self) -> list[bool]:
        """Whether each text is empty or white space."""
        return [is_blank(text) for text in self.texts]


@dataclass(slots=True)
class _Found:
    """What the last pass over the rows of a source found."""

    stripped_labels: int = 0
    """Labels that had blanks around them."""
    label_type: LabelType | None = None


@dataclass(frozen=True, slots=True)
class ExampleSource:
    """Labelled texts that can be read any number of times.

    Args:
        name: the source as the user wrote it (``standard input`` for ``-``), for messages.
        columns: the columns to read; ``label`` is None if labels are not read.
        label_names: the class names of a ``datasets.ClassLabel`` in order, else None.
        split: the split to read, if the source has several.
        first_row: 0-based number of the first row, if the source is a part of a file.
    """

    name: str
    columns: Columns
    label_names: tuple[str, ...] | None
    split: str
    _source: Source
    _null_is_blank: bool
    first_row: int = 0
    _found: _Found = field(default_factory=_Found)

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines to print: how the files were read where there was a choice, and what the last pass changed."""
        lines = note_lines(self._source.notes)
        count = self._found.stripped_labels
        return (*lines, f"{self.name}: removed blanks around {count:,} labels") if count else lines

    @property
    def label_type(self) -> LabelType | None:
        """Type of the labels that the last pass read; None: texts."""
        return self._found.label_type

    def batches(self, batch_rows: int = 4096) -> Iterator[ExampleBatch]:
        """Yield all examples in order, at most ``batch_rows`` at a time.

        Raises:
            DataError: an invalid row, no rows at all, or a file that changed since it was opened. In the last case
                the batches yielded so far are not valid either.
        """
        labels = self._label_column(self.columns.label or "")
        start = self.first_row
        for cells in self._source.table.batches(self._wanted(), batch_rows):
            yield self._examples(start, cells, labels)
            start += len(cells.rows)
        self._found.stripped_labels, self._found.label_type = labels.num_stripped, labels.label_type
        self._check_all_read(start - self.first_row)

    def labels(self, is_blank: Sequence[bool] = ()) -> list[Label] | None:
        """Read the label of every row in order from the source; None if labels are not read.

        Args:
            is_blank: whether the text of each row is blank, if that is known; such a row may lack its label.

        Raises:
            DataError: as for `batches`.
        """
        column = self.columns.label
        if column is None:
            return None
        reader = self._label_column(column)
        labels: list[Label] = []
        for cells in self._source.table.batches([column], _HASH_ROWS):
            blank = list(is_blank[len(labels) : len(labels) + len(cells.rows)])
            # more rows than flags: the file has changed, which the caller notices
            blank += [False] * (len(cells.rows) - len(blank))
            labels += reader.labels_of(cells.cells[column], cells.rows, blank)
        self._found.stripped_labels, self._found.label_type = reader.num_stripped, reader.label_type
        self._check_all_read(len(labels))
        return labels

    def _label_column(self, column: str) -> LabelColumn:
        return LabelColumn(self.name, column, self.label_names, splits=self.columns.splits_labels)

    def locate(self, index: int) -> Row:
        """Return the place of a 0-based row for messages.

        This is the line in a text file (which is read again) or the 1-based row, with the file if there are several.
        """
        return self._source.table.locate(index)

    def sha256(self) -> str:
        """Return the SHA-256 hex digest of the content.

        For one file, it is the digest that ``sha256sum`` prints. For several files, it is the digest of the lines
        that ``sha256sum`` prints for them in their common folder. For a saved dataset, it covers the concatenated data
        files, and for a hub dataset the columns that are read.
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
        texts = texts_of(
            cells[columns.text], rows, self.name, columns.text, null_is_blank=self._null_is_blank
        )
        return ExampleBatch(
            start,
            ids=list(map(str, range(start, start + len(rows))))
            if columns.id is None
            else ids_of(cells[columns.id], rows, self.name, columns.id),
            texts=texts,
            pairs=None
            if columns.text_pair is None
            else texts_of(cells[columns.text_pair], rows, self.name, columns.text_pair, null_is_blank=False),
            labels=None
            if columns.label is None
            else labels.labels_of(cells[columns.label], rows, [is_blank(text) for text in texts]),
        )


def open_examples(
    location: str, columns: Columns, *, labels: LabelUse, split: str = "train"
) -> ExampleSource:
    """Open labelled texts and find their columns; ``batches`` reads the rows.

    Args:
        location: a CSV, TSV, JSON, Parquet, Arrow, .xlsx, .txt or pickle file (texts also as gz, bz2 or xz),
            a pattern that matches such files, a folder with a folder of ``.txt`` files for each class, a folder written
            by ``save_to_disk`` of ``datasets``, ``-`` for standard input, or ``org/name[@config][:split]`` on the
            Hugging Face hub.
        columns: the columns to read; for JSON, a name may be a path such as ``data.text``.
        labels: ``"required"`` for training, where a null is read as a blank text; ``"ignore"`` reads no labels.
        split: the split of a ``DatasetDict`` (saved or pickled), a folder or a hub dataset, if the location names none.

    Raises:
        DataError: the file is empty, damaged or of an unsupported kind, or a column is missing.
        UnsafeFileError: the file could run code, or is an archive.
        UsageError: the file does not exist, a hub dataset or split cannot be loaded, or a library is not installed.
        ResourceError: there is no disk space for standard input.
    """
    source = open_source(location, columns, labels, split)
    label = source.columns.label
    return ExampleSource(
        source.name,
        source.columns,
        label_names=source.table.class_names.get(label) if label else None,
        split=split,
        _source=source,
        _null_is_blank=labels == "required" or columns.skips_blank,
    )


def open_texts(path: Path, name: str, columns: Columns) -> ExampleSource:
    """Open the texts of one file, which messages call ``name``; labels are not read. See `open_examples`."""
    return _texts_of(open_named_file(path, name, columns), first_row=0)


def open_row_group_texts(
    open_file: Callable[[], BinaryIO], name: str, columns: Columns, *, row_group: int, first_row: int
) -> ExampleSource:
    """Open the texts of one row group of a Parquet file; labels are not read.

    Args:
        open_file: opens the file, which need not be on this machine.
        name: the file, for messages.
        columns: the columns to read.
        row_group: 0-based number of the row group.
        first_row: 0-based number of the row group's first row in the file.

    Raises:
        DataError: the file is damaged, or a column is missing.
        UnsafeFileError: a column could run code.
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
        _null_is_blank=source.columns.skips_blank,
        first_row=first_row,
    )
