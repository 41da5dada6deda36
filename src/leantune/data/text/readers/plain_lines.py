"""Plain text, one text a line: a ``.txt`` file whose first line is no header with the wanted column."""

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
"""Lines by which columns are told from texts."""


@dataclass(frozen=True, slots=True)
class PlainLines(NamesInRows):
    """A file with one text a line; an empty line is an empty text, but at the end."""

    content: Content
    encoding: str
    columns: tuple[str, ...]
    """One, called what the text is called elsewhere."""

    def batches(self, wanted: Sequence[str], batch_rows: int) -> Iterator[CellBatch]:
        """At most ``batch_rows`` lines at a time.

        Raises:
            DataError: a NUL character, or a line without end.
        """
        texts = self._texts()
        while batch := list(islice(texts, batch_rows)):
            yield CellBatch(
                [line for line, _ in batch], {name: [text for _, text in batch] for name in wanted}
            )

    def locate(self, index: int) -> int:
        """The line."""
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
    """The lines of a ``.txt`` file, or None if it is a table with a header.

    Args:
        content: the file.
        columns: which columns are wanted.
        labels: ``"required"``: lines have none.

    Raises:
        DataError: lines where labels are needed, or that are columns without a header.
    """
    encoding = text_encoding(content)
    header = header_of(content, encoding, columns.text_name)
    alike = {name.strip().lower() for name in header}
    if columns.text_name in header or columns.text_name.lower() in alike:
        return None  # the table says what is amiss with a name that is not quite right
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
