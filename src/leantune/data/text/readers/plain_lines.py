"""Reads plain text with one text per line: a ``.txt`` file whose first line is not a header with the wanted column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from leantune.data.text.columns import Columns, LabelUse
from leantune.data.text.readers.content import Content
from leantune.data.text.readers.delimited import header_of
from leantune.data.text.readers.encodings import text_encoding
from leantune.data.text.readers.lines import text_lines
from leantune.data.text.table import CellBatch, NamesInRows
from leantune.errors import DataError
from leantune.system.messages import shown

SUFFIX = ".txt"

_LOOKED_AT = 20
"""Number of lines examined to tell columns from texts."""


@dataclass(frozen=True, slots=True)
class PlainLines(NamesInRows):
    """A file with one text per line; an empty line is an empty text, except at the end of the file."""

    content: Content
    encoding: str
    columns: tuple[str, ...]
    """The only column, with the name of the text column."""

    def batches(self, wanted: Sequence[str], batch_rows: int) -> Iterator[CellBatch]:
        """Yield at most ``batch_rows`` lines at a time.

        Raises:
            DataError: a NUL character, or a line that is too long.
        """
        texts = self._texts()
        while batch := list(islice(texts, batch_rows)):
            yield CellBatch(
                [line for line, _ in batch], {name: [text for _, text in batch] for name in wanted}
            )

    def locate(self, index: int) -> int:
        """Return the line number."""
        return index + 1

    def _texts(self) -> Iterator[tuple[int, str]]:
        empty: list[int] = []
        for number, line in enumerate(text_lines(self.content, newline="", encoding=self.encoding), start=1):
            text = line.rstrip("\r\n")
            if not text:
                empty.append(number)
                continue
            yield from ((each, "") for each in empty)
            empty.clear()
            yield number, text


def open_plain_lines(content: Content, columns: Columns, labels: LabelUse) -> PlainLines | None:
    """Open the lines of a ``.txt`` file; return None if it is a table with a header.

    Args:
        content: the file.
        columns: the wanted columns.
        labels: whether labels are required, which plain lines do not have.

    Raises:
        DataError: labels are required, or the lines look like columns without a header.
    """
    encoding = text_encoding(content)
    header = header_of(content, encoding, columns.text_name)
    alike = {name.strip().lower() for name in header}
    if columns.text_name in header or columns.text_name.lower() in alike:
        return None  # the table reader reports a name that differs only in case
    if labels == "required":
        if columns.label_name in header:
            return None
        raise DataError(
            f"no column {shown(columns.text_name)} in its first line, and lines of plain text have no labels: write "
            "the rows as CSV, TSV or JSON with a text and a label, or make a folder of .txt files for each class",
            path=content.name,
        )
    _refuse_columns(content, encoding)
    return PlainLines(content, encoding, (columns.text_name,))


def _refuse_columns(content: Content, encoding: str) -> None:
    lines = list(islice(text_lines(content, newline="", encoding=encoding), _LOOKED_AT))
    tabs = {line.count("\t") for line in lines}
    if len(lines) > 1 and len(tabs) == 1 and 0 not in tabs:
        count = tabs.pop()
        raise DataError(
            f"every line holds {count} tab{'s' * (count > 1)}, as if these were columns, and no header says which is "
            "the text, expected one text a line: write the columns' names into the first line and name the file .tsv",
            path=content.name,
        )
