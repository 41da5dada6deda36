"""Reads CSV and TSV as text; types are not guessed, so that ``NA``, ``null`` and ``007`` stay texts.

CSV follows RFC 4180: fields are separated by commas and quoted with double quotes where needed, a quote inside a field
is doubled, and a quoted field may contain line ends. Empty lines are skipped; in a file with one column they are empty
texts, except at the end. Semicolons, tabs or bars are used instead of commas if they, and not commas, separate the
wanted column from others in the header.

TSV has one row per line, and every tab is a separator. Real files contain bare quotes (``5" disk``), so quotes are only
removed from a field that is completely quoted, with the quotes inside doubled, as pandas and ``csv.writer`` write it.
Other quotes are kept as characters. Both tools also quote texts with line ends; a file with a single column whose lines
look like that is refused.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile, islice

from leantune.data.text.readers.content import Content
from leantune.data.text.readers.encodings import text_encoding
from leantune.data.text.readers.lines import text_lines
from leantune.data.text.table import CellBatch, NamesInRows, check_unique
from leantune.errors import DataError
from leantune.system.messages import shown

MAX_FIELD_CHARS = 2**24

_WRAPPED = re.compile(r'"(?:[^"]|"")*"')
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_TSV_SUFFIXES = (".tsv", ".tab")


@dataclass(frozen=True, slots=True)
class DelimitedTable(NamesInRows):
    """A CSV or TSV file."""

    content: Content
    delimiter: str
    encoding: str
    columns: tuple[str, ...]

    @property
    def separated_by(self) -> str:
        """The plural name of the separator, such as ``commas``."""
        return _DELIMITERS[self.delimiter]

    @property
    def is_as_named(self) -> bool:
        """Whether the separator matches the suffix: tabs in a TSV file, commas in any other file."""
        return self.delimiter == ("\t" if self.content.suffix in _TSV_SUFFIXES else ",")

    def batches(self, wanted: Sequence[str], batch_rows: int) -> Iterator[CellBatch]:
        """Yield the wanted columns, at most ``batch_rows`` rows at a time.

        Raises:
            DataError: a row has more or fewer fields than the header, or its quotes or encoding are invalid.
        """
        places = {name: self.columns.index(name) for name in wanted}
        rows = self._rows()
        while batch := list(islice(rows, batch_rows)):
            cells: dict[str, list[object]] = {
                name: [fields[place] for _, fields in batch] for name, place in places.items()
            }
            yield CellBatch([line for line, _ in batch], cells)

    def locate(self, index: int) -> int:
        """Return the line where the record begins."""
        return next(islice(self._rows(), index, None))[0]

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        records = _records(self.content, self.delimiter, self.encoding)
        next(records)
        empty: list[int] = []
        for line, fields in records:
            if not fields:
                empty.append(line)
                continue
            if len(self.columns) == 1:
                yield from ((each, [""]) for each in empty)
            empty.clear()
            if len(fields) != len(self.columns):
                raise self._ragged(line, fields)
            yield line, fields

    def _ragged(self, line: int, fields: list[str]) -> DataError:
        if self.delimiter == "\t":
            remedy = "a TSV text cannot contain a tab or a line end; use CSV for such texts"
        else:
            remedy = f"put a text that contains {self.separated_by} or line ends in double quotes"
        return DataError(
            f"{_fields(len(fields))}, expected {len(self.columns)} as in the header: {remedy}",
            path=self.content.name,
            row=line,
        )


def open_delimited(content: Content, text_column: str) -> DelimitedTable:
    """Open a CSV or TSV file and read its header; ``.tsv`` and ``.tab`` files are TSV, all others CSV.

    Args:
        content: the file.
        text_column: the column that the header should have, used to detect the delimiter.

    Raises:
        DataError: the header is missing, two columns have the same name, or the delimiter is wrong.
    """
    encoding = text_encoding(content)
    is_tsv = content.suffix in _TSV_SUFFIXES
    delimiter = "\t" if is_tsv else _delimiter(content, encoding, text_column)
    line, header = next(_records(content, delimiter, encoding), (1, []))
    if not header:
        raise DataError("only empty lines: expected a header and rows", path=content.name)
    if is_tsv and len(header) == 1:
        _refuse_other_delimiter(header[0], content.name, line)
    check_unique(header, content.name, line)
    return DelimitedTable(content, delimiter, encoding, tuple(header))


def header_of(content: Content, encoding: str, text_column: str) -> list[str]:
    """Split the first line that is not empty as `open_delimited` does; return no fields if that fails."""
    return _header(content, _delimiter(content, encoding, text_column), encoding) or []


def _delimiter(content: Content, encoding: str, text_column: str) -> str:
    """Return the first delimiter that gives the wanted column, else the first that gives several columns."""
    lines = text_lines(content, newline="", encoding=encoding)
    first = next((line for line in lines if line.strip("\r\n")), "")
    others = [other for other in _DELIMITERS if other != "," and other in first]
    if not others:
        return ","
    headers = {delimiter: _header(content, delimiter, encoding) for delimiter in (",", *others)}
    found = [delimiter for delimiter, header in headers.items() if header and text_column in header]
    found += [delimiter for delimiter, header in headers.items() if header and len(header) > 1]
    return found[0] if found else ","


def _header(content: Content, delimiter: str, encoding: str) -> list[str] | None:
    """Split the header at a delimiter; return None if that fails."""
    try:
        return next(_records(content, delimiter, encoding), (1, None))[1]
    except DataError:
        return None


def _records(content: Content, delimiter: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each record with the line where it begins, starting with the header; an empty line has no fields."""
    lines = text_lines(content, newline="", encoding=encoding)
    is_tsv = delimiter == "\t"
    records = _tsv_records(lines, content.name) if is_tsv else _csv_records(lines, content.name, delimiter)
    return dropwhile(lambda record: not record[1], records)


def _csv_records(lines: Iterator[str], name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    # The limit applies to the whole process, so it is never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARS))
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    while True:
        begin = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"a quote of the record that begins here is never closed, or closed too early "
                f"({error}, line {reader.line_num}): close it, and write a quote inside a text as two",
                path=name,
                row=begin,
            ) from None
        yield begin, fields


def _tsv_records(lines: Iterator[str], name: str) -> Iterator[tuple[int, list[str]]]:
    opened = 0  # the last single-field line with an opening quote that is not closed
    for number, line in enumerate(lines, start=1):
        row = line.rstrip("\r\n")
        fields = row.split("\t")
        bare = row.replace('""', "") if len(fields) == 1 else ""
        if opened and bare.endswith('"') and bare.count('"') == 1:
            raise DataError(
                f"a quote opens in this line and closes in line {number}, as if they were one text, but a TSV text "
                "cannot contain a line end: write the table as CSV, or if each line is a row, without these quotes",
                path=name,
                row=opened,
            )
        if '"' in bare:
            opened = number if bare.startswith('"') and bare.count('"') == 1 else 0
        yield number, [_unwrap(field) for field in fields] if row else []


def _unwrap(field: str) -> str:
    if field.startswith('"') and _WRAPPED.fullmatch(field):
        return field[1:-1].replace('""', '"')
    return field


def _refuse_other_delimiter(header: str, name: str, line: int) -> None:
    other = next((other for other in _DELIMITERS if other in header), None)
    if other is not None:
        raise DataError(
            f"one column found, {shown(header)}; its columns seem to be separated by {_DELIMITERS[other]}, "
            "expected tabs: name the file .csv",
            path=name,
            row=line,
        )


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"
