"""CSV and TSV: text only. No type is guessed, and ``NA``, ``null`` or ``007`` are the texts they are.

CSV is RFC 4180: commas, fields in double quotes where needed, a quote inside written as two; a
quoted field may hold line ends. Lines that are wholly empty are no rows; in a file of one column they are
empty texts, but for those at its end. Semicolons, tabs or bars take the place of commas if they, and not commas,
separate the wanted column from others in the header.

TSV is one line a row, and every tab separates. Files in the wild hold bare quotes (``5" disk``), so a
quote has a meaning only in a field that is wholly wrapped in quotes with those inside doubled, as
pandas and ``csv.writer`` write it; such a field is unwrapped. Any other quote is a character. They also
wrap texts that hold line ends: where the lines of a single column look like that, they are refused.
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
        """What separates the columns: ``commas``."""
        return _DELIMITERS[self.delimiter]

    @property
    def is_as_named(self) -> bool:
        """Whether it is what the suffix says: tabs in a TSV file, commas in any other."""
        return self.delimiter == ("\t" if self.content.suffix in _TSV_SUFFIXES else ",")

    def batches(self, wanted: Sequence[str], batch_rows: int) -> Iterator[CellBatch]:
        """The wanted columns, at most ``batch_rows`` rows at a time.

        Raises:
            DataError: a row with more or fewer fields than the header, broken quotes or encoding.
        """
        places = {name: self.columns.index(name) for name in wanted}
        rows = self._rows()
        while batch := list(islice(rows, batch_rows)):
            cells: dict[str, list[object]] = {
                name: [fields[place] for _, fields in batch] for name, place in places.items()
            }
            yield CellBatch([line for line, _ in batch], cells)

    def locate(self, index: int) -> int:
        """The line where the record begins."""
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
            remedy = "a TSV text holds no tab and no line end; use CSV for such texts"
        else:
            remedy = f"put a text that holds {self.separated_by} or line ends in double quotes"
        return DataError(
            f"{_fields(len(fields))}, expected {len(self.columns)} as in the header: {remedy}",
            path=self.content.name,
            row=line,
        )


def open_delimited(content: Content, text_column: str) -> DelimitedTable:
    """Read the header of a CSV or TSV file (``.tsv`` and ``.tab``; everything else is CSV).

    Args:
        content: the file.
        text_column: the column that its header should have, by which the delimiter is known.

    Raises:
        DataError: no header, two columns of one name, or another delimiter.
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
    """The fields of the first line that is not empty, as `open_delimited` would split it; none if it cannot."""
    return _header(content, _delimiter(content, encoding, text_column), encoding) or []


def _delimiter(content: Content, encoding: str, text_column: str) -> str:
    """The first delimiter that makes a column of the wanted name, else the first that makes several columns."""
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
    """The header as this delimiter splits it, or None if it cannot."""
    try:
        return next(_records(content, delimiter, encoding), (1, None))[1]
    except DataError:
        return None


def _records(content: Content, delimiter: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line where it begins, from the header on; an empty line has no fields."""
    lines = text_lines(content, newline="", encoding=encoding)
    is_tsv = delimiter == "\t"
    records = _tsv_records(lines, content.name) if is_tsv else _csv_records(lines, content.name, delimiter)
    return dropwhile(lambda record: not record[1], records)


def _csv_records(lines: Iterator[str], name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    # The limit is one number for the whole process, so it is only ever raised.
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
    opened = 0  # the line of one field that begins with a quote and does not close it
    for number, line in enumerate(lines, start=1):
        row = line.rstrip("\r\n")
        fields = row.split("\t")
        bare = row.replace('""', "") if len(fields) == 1 else ""
        if opened and bare.endswith('"') and bare.count('"') == 1:
            raise DataError(
                f"the quote that begins this line ends line {number}, as if they were one text, and a TSV text holds "
                "no line end: write the table as CSV, or if each line is a row, without these quotes",
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
            f"one column found, {shown(header)}; it looks as if {_DELIMITERS[other]} separated the columns, "
            "expected tabs: name the file .csv",
            path=name,
            row=line,
        )


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"
