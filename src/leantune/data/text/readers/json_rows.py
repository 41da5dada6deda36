"""Reads rows that are JSON objects; the columns are the keys of the first row, and paths into nested objects.

The column ``data.text`` is the key ``text`` of the object ``data``, unless a key is itself called ``data.text``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from leantune.data.text.readers.content import Content
from leantune.data.text.readers.json_lines import line_objects
from leantune.data.text.readers.json_list import is_wrapped_list, list_objects
from leantune.data.text.readers.sniff import Kind
from leantune.data.text.table import CellBatch, NamesInRows
from leantune.errors import DataError
from leantune.system.messages import listed, nearest, place_name, shown, type_word

MAX_PATHS = 100
"""Largest number of paths that are compared for a suggestion."""
Objects = Callable[[Content], Iterator[tuple[int, dict[str, object]]]]
"""Reads the objects of a file, each with its line or its number in the list, for messages."""


@dataclass(frozen=True, slots=True)
class JsonTable(NamesInRows):
    """A file of JSON objects."""

    content: Content
    objects: Objects
    columns: tuple[str, ...]
    nested: tuple[str, ...] = ()
    """Paths to the texts inside the objects of the first row."""

    def batches(self, wanted: Sequence[str], batch_rows: int) -> Iterator[CellBatch]:
        """Yield the wanted columns, at most ``batch_rows`` rows at a time.

        Raises:
            DataError: a row is not one JSON object or lacks a wanted key.
        """
        rows = self.objects(self.content)
        while batch := list(islice(rows, batch_rows)):
            numbers = [number for number, _ in batch]
            yield CellBatch(numbers, {name: self._column(name, batch) for name in wanted})

    def locate(self, index: int) -> int:
        """Return the line of an object, or its number in the list."""
        return next(islice(self.objects(self.content), index, None))[0]

    def _column(self, name: str, batch: list[tuple[int, dict[str, object]]]) -> list[object]:
        return [
            record[name] if name in record else _along(name, record, self.content.name, number)
            for number, record in batch
        ]


def open_json(content: Content, kind: Kind, wanted: Sequence[str]) -> JsonTable:
    """Open a JSON file and read the keys of the first object.

    Args:
        content: the file.
        kind: ``"json list"`` or ``"jsonlines"``; the latter may also be an object with a list.
        wanted: the columns to read, which may be paths.

    Raises:
        DataError: the first row is not a JSON object, or does not contain a wanted path.
    """
    content.check_unpacked()
    is_list = kind == "json list" or is_wrapped_list(content)
    objects = list_objects if is_list else line_objects
    number, first = next(objects(content), (1, None))
    if first is None:
        found = (
            "an empty list: expected an object for each row"
            if is_list
            else "only empty lines: expected one JSON object a line"
        )
        raise DataError(found, path=content.name)
    paths = [name for name in wanted if name not in first and name.partition(".")[0] in first]
    for path in paths:
        _along(path, first, content.name, number)
    return JsonTable(content, objects, (*first, *paths), tuple(islice(_paths_to_texts(first), MAX_PATHS)))


def _paths_to_texts(record: dict[str, object]) -> Iterator[str]:
    """Yield the paths of two or three keys that lead to a text."""
    for key, value in record.items():
        for inner, below in value.items() if isinstance(value, dict) else ():
            if isinstance(below, str):
                yield f"{key}.{inner}"
            elif isinstance(below, dict):
                yield from (f"{key}.{inner}.{last}" for last, each in below.items() if isinstance(each, str))


def _along(path: str, record: dict[str, object], name: str, number: int) -> object:
    """Return the value at the end of a path of keys.

    Raises:
        DataError: a key does not exist; the message names the existing keys.
    """
    value: object = record
    walked: list[str] = []
    for key in path.split("."):
        if not isinstance(value, dict):
            found = (
                f"{shown('.'.join(walked))} is {type_word(value)}, expected an object with {shown(key)} in it"
            )
        elif key in value:
            value = value[key]
            walked.append(key)
            continue
        elif walked:
            has = f"has {listed(value)}" if value else "is empty"
            found = f"no {shown(key)} in {shown('.'.join(walked))}, which {has}{nearest(key, list(value))}"
        else:
            found = f"no such key in this row, which has {listed(value)}"
        raise DataError(f"{found}: every row needs it", path=name, row=number, column=place_name(path))
    return value
