"""JSON lines: one object a line, UTF-8, the columns being the keys of the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from leantune.data.readers.content import Content
from leantune.data.readers.lines import text_lines
from leantune.data.readers.strict_json import parse_json
from leantune.data.table import CellBatch
from leantune.errors import DataError
from leantune.system.messages import listed, place_name, type_word


@dataclass(frozen=True, slots=True)
class JsonLinesTable:
    """A file with one JSON object a line."""

    content: Content
    columns: tuple[str, ...]

    @property
    def class_names(self) -> Mapping[str, tuple[str, ...]]:
        """Empty: a text file names its classes in the rows."""
        return {}

    def batches(self, wanted: Sequence[str], batch_rows: int) -> Iterator[CellBatch]:
        """The wanted columns, at most ``batch_rows`` rows at a time.

        Raises:
            DataError: a line that is not one JSON object, or that lacks a wanted key.
        """
        rows = _objects(self.content)
        while batch := list(islice(rows, batch_rows)):
            lines = [line for line, _ in batch]
            yield CellBatch(lines, {name: self._column(name, batch) for name in wanted})

    def locate(self, index: int) -> int:
        """The object's line."""
        return next(islice(_objects(self.content), index, None))[0]

    def _column(self, name: str, batch: list[tuple[int, dict[str, object]]]) -> list[object]:
        for line, record in batch:
            if name not in record:
                raise DataError(
                    f"no such key on this line, which has {listed(record)}: every line needs it",
                    path=self.content.name,
                    row=line,
                    column=place_name(name),
                )
        return [record[name] for _, record in batch]


def open_jsonlines(content: Content) -> JsonLinesTable:
    """Read the keys of the first line.

    Raises:
        DataError: the first line is not a JSON object.
    """
    _, first = next(_objects(content), (1, None))
    if first is None:
        raise DataError("only empty lines: expected one JSON object a line", path=content.name)
    return JsonLinesTable(content, tuple(first))


def _objects(content: Content) -> Iterator[tuple[int, dict[str, object]]]:
    """Each line's object with its line number; blank lines left out."""
    for number, line in enumerate(text_lines(content, newline="\n"), start=1):
        if not line.isspace():
            yield number, _object(line.rstrip("\r\n"), content.name, number)


def _object(line: str, name: str, number: int) -> dict[str, object]:
    if line.lstrip().startswith("["):
        raise DataError(
            "a JSON array, expected one JSON object a line: "
            'write each row as {"text": ..., "label": ...} on its own line',
            path=name,
            row=number,
        )
    try:
        value = parse_json(line)
    except ValueError as error:
        raise DataError(f"{error}, expected one JSON object a line", path=name, row=number) from None
    if not isinstance(value, dict):
        raise DataError(f"{type_word(value)}, expected one JSON object a line", path=name, row=number)
    return value
