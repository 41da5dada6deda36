"""Reads text files by lines or blocks, strictly in their encoding and with a limit on the length of a line."""

from __future__ import annotations

import io
from collections.abc import Iterator

from leantune.data.text.readers.content import Content, reading
from leantune.data.text.readers.encodings import find_bad_byte
from leantune.data.text.readers.sniff import encoding_of
from leantune.errors import DataError

MAX_LINE_CHARS = 2**26
BLOCK_CHARS = 2**20


def text_lines(content: Content, newline: str, encoding: str | None = None) -> Iterator[str]:
    r"""Yield the lines of a text file with their line ends.

    Args:
        content: the file.
        newline: as for ``open``: ``""`` splits at ``\n``, ``\r`` and ``\r\n``; ``"\n"`` splits only at ``\n``.
        encoding: the encoding; None means the result of `encoding_of`.

    Raises:
        DataError: a byte that is not valid in the encoding (the message gives its offset), a NUL character, or a line
            longer than ``MAX_LINE_CHARS``.
    """
    encoding = encoding or encoding_of(content.head())
    with content.open() as raw, io.TextIOWrapper(raw, encoding, newline=newline) as text:
        number = 0
        try:
            with reading(content.name):
                while line := text.readline(MAX_LINE_CHARS):
                    number += 1
                    _check_line(line, content, number)
                    yield line
        except UnicodeDecodeError as error:
            raise _bad_encoding(content, encoding) from error


def text_blocks(content: Content, encoding: str | None = None) -> Iterator[str]:
    """Yield a text file in blocks of `BLOCK_CHARS` characters; ``encoding`` is as for `text_lines`.

    Raises:
        DataError: a byte is not valid in the encoding.
    """
    encoding = encoding or encoding_of(content.head())
    with content.open() as raw, io.TextIOWrapper(raw, encoding, newline="") as text:
        try:
            with reading(content.name):
                while block := text.read(BLOCK_CHARS):
                    yield block
        except UnicodeDecodeError as error:
            raise _bad_encoding(content, encoding) from error


def _check_line(line: str, content: Content, number: int) -> None:
    if "\0" in line:
        raise DataError(
            "a NUL character, expected text: the file is binary, or UTF-16 without a byte order mark; "
            "save it as UTF-8",
            path=content.name,
            row=number,
        )
    if len(line) == MAX_LINE_CHARS:
        raise DataError(
            f"a line of more than {MAX_LINE_CHARS:,} characters, expected one row a line: "
            "check that this is the right file",
            path=content.name,
            row=number,
        )


def _bad_encoding(content: Content, encoding: str) -> DataError:
    """Return the error for the first bad byte, reading the file again because the text reader hides its offset."""
    bad = find_bad_byte(content, encoding)
    if bad is None:
        return DataError("the file changed while it was read: start again", path=content.name)
    return bad.error(content, encoding)
