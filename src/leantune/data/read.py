"""Examples from any supported source, in batches: the one reader of training, evaluation and prediction.

The content of a file decides how it is read, whatever its suffix says. Nothing is read into memory as
a whole but a pickle, which has no rows before its end.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from leantune.data.cells import LabelReader, ids_of, texts_of
from leantune.data.readers import hub
from leantune.data.readers.arrow import open_arrow
from leantune.data.readers.content import PACKING_SUFFIXES, Content, open_content
from leantune.data.readers.delimited import open_delimited
from leantune.data.readers.jsonlines import open_jsonlines
from leantune.data.readers.pickles import open_pickle
from leantune.data.readers.saved_dataset import open_saved_dataset
from leantune.data.readers.sniff import sniff
from leantune.data.table import CellBatch, Table
from leantune.errors import DataError
from leantune.system.messages import listed, nearest, place_name, shown

LabelUse = Literal["required", "ignore"]

_FILE_SUFFIXES = (
    *(".csv", ".tsv", ".tab", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather"),
    *(".pkl", ".pickle"),
    *PACKING_SUFFIXES,
)
_HASH_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns hold what.

    Args:
        text: the text; None: the column called ``text``.
        text_pair: the second text of a pair; None: no pairs.
        label: the label; None: the column called ``label``, else ``target``.
        id: the row's own name; None: the 0-based row number.
    """

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ExampleBatch:
    """Consecutive examples; every list has one entry an example.

    Args:
        start: 0-based number of the first example.
        ids: as in the id column, or 0-based row numbers.
        texts: the texts.
        pairs: the second texts, or None without pairs.
        labels: canonical label texts, or None when labels are not read.
    """

    start: int
    ids: list[str]
    texts: list[str]
    pairs: list[str] | None
    labels: list[str] | None


@dataclass(frozen=True, slots=True)
class ExampleSource:
    """Labelled texts that can be read again and again.

    Args:
        name: the source as the user wrote it (``standard input`` for ``-``); used in messages.
        columns: the columns that are read; ``label`` is None when labels are not.
        label_names: the names of a ``datasets.ClassLabel`` in its order, else None.
        split: which part it is, if the file holds several.
    """

    name: str
    columns: Columns
    label_names: tuple[str, ...] | None
    split: str
    _table: Table
    _contents: tuple[Content, ...]
    _allow_blank: bool

    def batches(self, batch_rows: int = 4096) -> Iterator[ExampleBatch]:
        """All examples in order, at most ``batch_rows`` at a time.

        Raises:
            DataError: a row that is not what it must be, no rows at all, or a file that changed
                since it was opened. Batches already given stay valid only if none is raised.
        """
        labels = LabelReader(self.name, self.columns.label or "", self.label_names)
        start = 0
        for cells in self._table.batches(self._wanted(), batch_rows):
            yield self._examples(start, cells, labels)
            start += len(cells.rows)
        self._check_all_read(start)

    def labels(self) -> list[str] | None:
        """The label text of every row in order, from the source itself; None if labels are not read.

        Raises:
            DataError: as `batches`.
        """
        column = self.columns.label
        if column is None:
            return None
        reader = LabelReader(self.name, column, self.label_names)
        texts: list[str] = []
        for cells in self._table.batches([column], _HASH_ROWS):
            texts += reader.texts_of(cells.cells[column], cells.rows)
        self._check_all_read(len(texts))
        return texts

    def locate(self, index: int) -> int:
        """The number to print for a 0-based row: a text file's line (read once more), or the 1-based row."""
        return self._table.locate(index)

    def sha256(self) -> str:
        """Hex digest of the content.

        For a file it is what ``sha256sum`` prints, for a saved dataset that of its data files one after
        the other, for a hub dataset that of the columns that are read.
        """
        digest = hashlib.sha256()
        for content in self._contents:
            content.update_hash(digest)
        if not self._contents:
            for cells in self._table.batches(self._wanted(), _HASH_ROWS):
                digest.update(repr(cells.cells).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()

    def _check_all_read(self, num_rows: int) -> None:
        for content in self._contents:
            content.check_unchanged()
        if num_rows == 0:
            raise DataError("no rows, expected at least one", path=self.name)

    def _wanted(self) -> list[str]:
        chosen = (self.columns.text, self.columns.text_pair, self.columns.label, self.columns.id)
        return list(dict.fromkeys(name for name in chosen if name is not None))

    def _examples(self, start: int, batch: CellBatch, labels: LabelReader) -> ExampleBatch:
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
            labels=None if columns.label is None else labels.texts_of(cells[columns.label], rows),
        )


def open_examples(
    location: str, columns: Columns, *, labels: LabelUse, split: str = "train"
) -> ExampleSource:
    """Open labelled texts and find their columns; rows are read by ``batches``.

    Args:
        location: a CSV, TSV, JSON lines, Parquet, Arrow or pickle file (text files also as gz, bz2 or
            xz), a folder written by ``datasets``' ``save_to_disk``, ``-`` for standard input, or
            ``org/name[@config][:split]`` on the Hugging Face hub.
        columns: which columns hold what.
        labels: ``"required"`` for training, where a text must not be blank either; ``"ignore"`` never looks.
        split: of a ``DatasetDict`` (saved or pickled) or a hub dataset that does not name one.

    Raises:
        DataError: a file that is missing, empty, damaged or of another kind, or a missing column.
        UnsafeFileError: a file that could run code, or an archive.
        UsageError: a hub dataset or a split that cannot be loaded.
        ResourceError: no room for standard input.
    """
    table, contents = _open_table(location, split)
    name = contents[0].name if location == "-" else place_name(location)
    found = _find_columns(table.columns, columns, labels, name)
    return ExampleSource(
        name,
        found,
        label_names=table.class_names.get(found.label) if found.label else None,
        split=split,
        _table=table,
        _contents=contents,
        _allow_blank=labels != "required",
    )


def _open_table(location: str, split: str) -> tuple[Table, tuple[Content, ...]]:
    if location != "-" and not os.path.lexists(location):
        hub_name = hub.parse_hub_name(location)
        if hub_name is not None and not location.lower().endswith(_FILE_SUFFIXES):
            return hub.open_hub(location, hub_name, split), ()
    if os.path.isdir(location):
        return open_saved_dataset(Path(location), split)
    content = open_content(location)
    return _open_file(content, split), (content,)


def _open_file(content: Content, split: str) -> Table:
    kind = sniff(content)
    if kind in ("delimited", "jsonlines"):
        content.check_unpacked()
    if kind == "delimited":
        return open_delimited(content)
    if kind == "jsonlines":
        return open_jsonlines(content)
    if kind == "pickle":
        return open_pickle(content, split)
    return open_arrow(content, kind)


def _find_columns(found: tuple[str, ...], wanted: Columns, labels: LabelUse, name: str) -> Columns:
    for column in (wanted.text or "text", wanted.text_pair, wanted.id):
        if column is not None and column not in found:
            raise _missing(column, found, name)
    return replace(wanted, text=wanted.text or "text", label=_label_column(found, wanted, labels, name))


def _label_column(found: tuple[str, ...], wanted: Columns, labels: LabelUse, name: str) -> str | None:
    if labels == "ignore":
        return None
    candidates = ("label", "target") if wanted.label is None else (wanted.label,)
    column = next((candidate for candidate in candidates if candidate in found), None)
    if column is None:
        raise _missing(candidates[0], found, name)
    return column


def _missing(column: str, found: tuple[str, ...], name: str) -> DataError:
    return DataError(
        f"no column {shown(column)}; found {listed(found)}{nearest(column, found)}: "
        "name the column to read, or rename it in the file",
        path=name,
    )
