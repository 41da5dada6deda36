"""Reads a JSON list of objects, alone or as the only value of an object: ``[{...}, {...}]``, ``{"data": [{...}]}``.

ijson parses the file event by event, so it need not fit into memory. The Python backend of ijson is used because it is
strict: the yajl backend replaces half characters and refuses large numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from leantune.data.text.readers.content import Content
from leantune.data.text.readers.lines import MAX_LINE_CHARS, text_blocks, text_lines
from leantune.data.text.readers.sniff import encoding_of
from leantune.data.text.readers.strict_json import MAX_DEPTH, RepeatedKeyError, UniqueKeys, parse_strict_json
from leantune.errors import DataError, first_line
from leantune.system.messages import type_word

_WRAPPED_OBJECT = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\[\s*\{')
_EXPECTED = 'expected a list of objects: [{"text": ..., "label": ...}, ...]'


def is_wrapped_list(content: Content) -> bool:
    """Whether a file that begins with ``{`` is one object that contains only a list of objects.

    JSON Lines may begin the same way, but then the first line is an object with more keys.
    """
    head = content.head()
    if not _WRAPPED_OBJECT.match(head.decode(encoding_of(head), "replace")):
        return False
    first = next(line for line in text_lines(content, newline="\n") if not line.isspace())
    try:
        value = parse_strict_json(first)
    except ValueError:  # the object ends in a later line
        return True
    return isinstance(value, dict) and len(value) == 1


def list_objects(content: Content) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield each object of the list with its 1-based number.

    Raises:
        DataError: the JSON is invalid, an item of the list is not an object, or the file has more than the list.
    """
    from ijson.backends import python as ijson
    from ijson.common import JSONError

    stream = _Stream(content)
    number = 0
    try:
        for number, value in enumerate(_objects(ijson.basic_parse(stream, use_float=True)), start=1):
            yield number, value
            stream.begin_row()
    except (_UnexpectedError, JSONError, ValueError) as error:
        raise stream.error or _in_one_line(error, content.name, number) from None
    if stream.error:  # an error after the list
        raise stream.error


def _in_one_line(error: Exception, name: str, rows: int) -> DataError:
    """Return the error for a problem that was found after ``rows`` rows."""
    message, row = first_line(error)[:100], rows + 1
    if isinstance(error, _UnexpectedError):
        return DataError(f"{message}, {_EXPECTED}", path=name, row=row)
    if isinstance(error, RepeatedKeyError):
        return DataError(f"{message}: keep one", path=name, row=row)
    if "Incomplete" in message:
        place = f"after row {rows:,} of the list" if rows else "in the first row of the list"
        return DataError(f"the file ends {place}: make or download it again", path=name)
    if "Additional data" in message:
        return DataError(
            "something follows the list, expected the end of the file: write the list alone", path=name
        )
    return DataError(f"not JSON: {message}, {_EXPECTED}", path=name, row=row)


class _UnexpectedError(Exception):
    """The list contains something other than an object, or the file has more than the list."""


class _Stream:
    """The UTF-8 bytes of a text file, which end at the first error because ijson cannot handle exceptions."""

    def __init__(self, content: Content) -> None:
        self._blocks, self._name = text_blocks(content), content.name
        self._row_chars = self._rows = 0
        self.error: DataError | None = None

    def read(self, size: int = -1) -> bytes:
        """Return the next block, whatever the requested size; empty at the end."""
        try:
            block = next(self._blocks, "") if size else ""
        except DataError as error:
            self.error = error
            return b""
        self._row_chars += len(block)
        if self._row_chars > MAX_LINE_CHARS:
            message = f"a row of more than {MAX_LINE_CHARS:,} characters: check that this is the right file"
            self.error = DataError(message, path=self._name, row=self._rows + 1)
            return b""
        return block.encode()

    def begin_row(self) -> None:
        """Start to count the characters of the next row."""
        self._row_chars, self._rows = 0, self._rows + 1


def _objects(events: Iterator[tuple[str, object]]) -> Iterator[dict[str, object]]:
    """Yield the objects of the list; raise `_UnexpectedError` for anything else."""
    from ijson.common import ObjectBuilder

    event, _ = next(events)
    is_wrapped = event == "start_map" and next(events)[0] == "map_key"
    if is_wrapped:
        event, _ = next(events)
    if event != "start_array":
        raise _UnexpectedError("no list")
    for event, value in events:
        if event == "end_array":
            break
        if event != "start_map":
            raise _UnexpectedError(
                type_word("" if event == "string" else [] if event == "start_array" else value)
            )
        builder, depth = ObjectBuilder(map_type=UniqueKeys), 1
        builder.event(event, value)
        while depth:
            event, value = next(events)
            builder.event(event, value)
            depth += event.startswith("start_") - event.startswith("end_")
            if depth > MAX_DEPTH:
                raise _UnexpectedError(f"brackets nested more than {MAX_DEPTH} deep")
        yield dict(builder.value)
    if is_wrapped and (event := next(events)[0]) != "end_map":
        raise _UnexpectedError("another key follows the list")
    for _ in events:  # ijson raises an error for data after the end
        pass
