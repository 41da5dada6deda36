"""Reads JSON Lines: one object per line, in UTF-8."""

from __future__ import annotations

from collections.abc import Iterator

from leantune.data.text.readers.content import Content
from leantune.data.text.readers.lines import text_lines
from leantune.data.text.readers.strict_json import parse_strict_json
from leantune.errors import DataError
from leantune.system.messages import type_word


def line_objects(content: Content) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield the object of each line with its line number, skipping blank lines.

    Raises:
        DataError: a line is not one JSON object.
    """
    for number, line in enumerate(text_lines(content, newline="\n"), start=1):
        if not line.isspace():
            yield number, _object(line.rstrip("\r\n"), content.name, number)


def _object(line: str, name: str, number: int) -> dict[str, object]:
    try:
        value = parse_strict_json(line)
    except ValueError as error:
        raise DataError(f"{error}, expected one JSON object a line", path=name, row=number) from None
    if not isinstance(value, dict):
        raise DataError(f"{type_word(value)}, expected one JSON object a line", path=name, row=number)
    return value
