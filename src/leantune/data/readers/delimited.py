"""CSV and TSV: text only. No type is guessed, and ``NA``, ``null`` or ``007`` are the texts they are.

CSV is RFC 4180: commas, fields in double quotes where needed, a quote inside written as two; a
quoted field may hold line ends. Lines that are wholly empty are no rows; in a file of one column they are
empty texts, but for those at its end.

TSV is one line a row, and every tab separates. Files in the wild hold bare quotes (``5" disk``), so a
quote has a meaning only in a field that is wholly wrapped in quotes with those inside doubled, as
pandas and ``csv.writer`` write it; such a field is unwrapped. Any other quote is a character. They also
wrap texts that hold line ends: where the lines of a single column look like that, they are refused.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile, islice

from leantune.data.readers.content import Content
from leantune.data.readers.lines import text_lines
from leantune.data.table import CellBatch, check_unique
from leantune.errors import DataError
from leantune.system.messages import shown

MAX_FIELD_CHARS = 2**24

_OTHERWISE_SEPARATED = re.compile(r'"[^",]*"([;|\t]"[^",]*")+')
"""A header whose names are all in quotes."""
_WRAPPED = re.compile(r'"(?:[^"]|"")*"')
_DELIMITERS = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'"}
_TSV_SUFFIXES = (".tsv", ".tab")


@dataclass(frozen=True, slots=True)
class DelimitedTable:
    """A CSV or TSV file."""

    content: Content
    delimiter: str
    columns: tuple[str, ...]

    @property
    def class_names(self) -> Mapping[str, tuple[str, ...]]:
        """Empty: a text file names its classes in the rows."""
        return {}

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
        records = _records(self.content, self.delimiter)
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
        if self.delimiter == ",":
            remedy = "put a text that holds commas or line ends in double quotes"
        else:
            remedy = "a TSV text holds no tab and no line end; use CSV for such texts"
        return DataError(
            f"{_fields(len(fields))}, expected {len(self.columns)} as in the header: {remedy}",
            path=self.content.name,
            row=line,
        )


def open_delimited(content: Content) -> DelimitedTable:
    """Read the header of a CSV or TSV file (``.tsv`` and ``.tab``; everything else is CSV).

    Raises:
        DataError: no header, two columns of one name, or another delimiter.
    """
    delimiter = "\t" if content.suffix in _TSV_SUFFIXES else ","
    try:
        line, header = next(_records(content, delimiter), (1, []))
    except DataError:  # to it, names in quotes between other separators are quotes that were closed too early
        first = next(text_lines(content, newline=""), "").rstrip("\r\n")
        if _OTHERWISE_SEPARATED.fullmatch(first):
            _refuse_other_delimiter(first, delimiter, content.name, 1)
        raise
    if not header:
        raise DataError("only empty lines: expected a header and rows", path=content.name)
    if len(header) == 1:
        _refuse_other_delimiter(header[0], delimiter, content.name, line)
    check_unique(header, content.name, line)
    return DelimitedTable(content, delimiter, tuple(header))


def _records(content: Content, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line where it begins, from the header on; an empty line has no fields."""
    lines = text_lines(content, newline="")
    read = _csv_records if delimiter == "," else _tsv_records
    records = read(lines, content.name)
    return dropwhile(lambda record: not record[1], records)


def _csv_records(lines: Iterator[str], name: str) -> Iterator[tuple[int, list[str]]]:
    # The limit is one number for the whole process, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARS))
    reader = csv.reader(lines, strict=True)
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


def _refuse_other_delimiter(header: str, delimiter: str, name: str, line: int) -> None:
    for other, word in _DELIMITERS.items():
        if other in header and other != delimiter:
            remedy = (
                "give it as a file named .tsv"
                if other == "\t"
                else "write the columns with commas and name it .csv"
            )
            raise DataError(
                f"one column found, {shown(header)}; it looks as if {word} separated the columns, "
                f"expected {_DELIMITERS[delimiter]}: {remedy}",
                path=name,
                row=line,
            )


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"
