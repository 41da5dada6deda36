"""A JSON list of objects, alone or as the one value of an object: ``[{...}, {...}]``, ``{"data": [{...}]}``.

The list is cut at the brackets of its objects, each of which is parsed alone, so that it need not fit into memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from leantune.data.text.readers.content import Content
from leantune.data.text.readers.lines import MAX_LINE_CHARS, text_blocks, text_lines
from leantune.data.text.readers.sniff import encoding_of
from leantune.data.text.readers.strict_json import parse_json
from leantune.errors import DataError
from leantune.system.messages import shown

_KEY = r'\{\s*"(?:[^"\\]|\\.)*"\s*:\s*'
_OPENING = re.compile(rf"\s*({_KEY})?\[")
_WRAPPED_OBJECT = re.compile(rf"\s*{_KEY}\[\s*\{{")
_MARK = re.compile(r'["\[\]{}]')
_IN_STRING = re.compile(r'(?:[^"\\]+|\\.)*', re.DOTALL)
_EXPECTED = 'expected a list of objects: [{"text": ..., "label": ...}, ...]'


def is_wrapped_list(content: Content) -> bool:
    """Whether a file that begins with ``{`` is one object with nothing but a list of objects.

    Lines of objects may begin like that, too: then the first line is an object with more in it.
    """
    head = content.head()
    if not _WRAPPED_OBJECT.match(head.decode(encoding_of(head), "replace")):
        return False
    first = next(line for line in text_lines(content, newline="\n") if not line.isspace())
    try:
        value = parse_json(first)
    except ValueError:  # it ends in a later line
        return True
    return isinstance(value, dict) and len(value) == 1


def list_objects(content: Content) -> Iterator[tuple[int, dict[str, object]]]:
    """Each object of the list with its 1-based number.

    Raises:
        DataError: something else in the list or around it, or an object that is no JSON.
    """
    for number, text in enumerate(_texts(content), start=1):
        try:
            value = parse_json(text)
        except ValueError as error:
            message = f"{error} in the text of this row, expected an object"
            raise DataError(message, path=content.name, row=number) from None
        assert isinstance(value, dict), "the text begins with a brace"
        yield number, value


def _texts(content: Content) -> Iterator[str]:
    """The text of each object, from brace to brace."""
    cutter = _Cutter(content.name)
    for block in text_blocks(content):
        yield from cutter.cut(block)
    cutter.check_end()


@dataclass(slots=True)
class _Cutter:
    """Finds the objects in the text of a list, which comes in blocks."""

    name: str
    text: str = ""
    """From the end of the last row on."""
    at: int = 0
    """Up to where the text was looked at."""
    after: int = 0
    """The end of the last row in it."""
    depth: int = 0
    """Brackets that are open; 1: in the list, between rows."""
    in_string: bool = False
    is_begun: bool = False
    is_wrapped: bool = False
    rows: int = 0

    def cut(self, block: str) -> Iterator[str]:
        """The rows that end in the next block."""
        self.text = self.text[self.after :] + block
        self.at, self.after = self.at - self.after, 0
        if len(self.text) > MAX_LINE_CHARS:
            raise DataError(
                f"a row of more than {MAX_LINE_CHARS:,} characters: check that this is the right file",
                path=self.name,
                row=self.rows + 1,
            )
        if not self.is_begun:
            self._begin()
        while self.depth and (mark := self._next_mark()):
            if self.depth == 1:
                self._check_between(self.text[self.after : mark.start()], mark[0])
                self.after = mark.start()
            if mark[0] == '"':
                self.in_string = True
            else:
                self.depth += 1 if mark[0] in "[{" else -1
            if self.depth == 1:
                row, self.after = self.text[self.after : self.at], self.at
                self.rows += 1
                yield row
            elif self.depth == 0:
                self.after = self.at

    def check_end(self) -> None:
        """Raise DataError unless the list was closed and nothing follows it."""
        rest, end = self.text[self.after :].strip(), "}" if self.is_wrapped else ""
        if self.depth or not self.is_begun or len(rest) < len(end):
            raise DataError(f"the file ends {self._place()}: make or download it again", path=self.name)
        if rest != end:
            raise DataError(
                f"{shown(rest, 20)} follows the list, expected the end of the file: write the list alone",
                path=self.name,
            )

    def _begin(self) -> None:
        opening = _OPENING.match(self.text)
        if opening is None:
            raise DataError(f"{shown(self.text, 20)} begins the file, {_EXPECTED}", path=self.name)
        self.is_begun, self.is_wrapped, self.depth = True, opening[1] is not None, 1
        self.at = self.after = opening.end()

    def _next_mark(self) -> re.Match[str] | None:
        """The next bracket, or quote that opens a string; None if it is in another block."""
        if self.in_string:
            match = _IN_STRING.match(self.text, self.at)
            assert match is not None, "it matches nothing, too"
            self.at = match.end()
            if (
                self.text[self.at : self.at + 1] != '"'
            ):  # the end, or a backslash before it: the string goes on
                return None
            self.in_string, self.at = False, self.at + 1
        mark = _MARK.search(self.text, self.at)
        self.at = len(self.text) if mark is None else mark.end()
        return mark

    def _check_between(self, between: str, mark: str) -> None:
        """Check what stands between two rows, or a row and a bracket of the list."""
        expected = "" if self.rows == 0 or mark == "]" else ","
        if between.strip() != expected or mark not in "{]":
            found = self.text[self.after :].strip()
            raise DataError(f"{shown(found, 20)} {self._place()}, {_EXPECTED}", path=self.name)

    def _place(self) -> str:
        return f"after row {self.rows:,} of the list" if self.rows else "in the first row of the list"
