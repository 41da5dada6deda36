"""Text files, line by line: encodings by byte order mark, no byte guessed, no line without end."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator

from leantune.data.readers.content import Content, reading
from leantune.data.readers.sniff import encoding_of
from leantune.errors import DataError

MAX_LINE_CHARS = 2**26


def text_lines(content: Content, newline: str) -> Iterator[str]:
    r"""The lines of a text file with their ends.

    Args:
        content: the file.
        newline: as for ``open``: ``""`` splits at ``\n``, ``\r`` and ``\r\n``; ``"\n"`` only there.

    Raises:
        DataError: bytes that are not of the encoding (with the byte's offset), a NUL character,
            or a line of more than ``MAX_LINE_CHARS``.
    """
    encoding = encoding_of(content.head())
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
    """Find the first byte that is not of the encoding.

    The fast reader knows only the offset within its buffer, so this reads the file once more.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    offset, line = 0, 1
    with content.open() as stream:
        while True:
            block = stream.read(2**16)
            before = decoder.getstate()
            try:
                line += decoder.decode(block, final=not block).count("\n")
            except UnicodeDecodeError as error:
                start = error.start - len(before[0])
                decoder.setstate(before)
                line += decoder.decode(block[: max(start, 0)]).count("\n")
                return _bad_byte(content, encoding, error.object[error.start], offset + start, line)
            if not block:
                return DataError("the file changed while it was read: start again", path=content.name)
            offset += len(block)


def _bad_byte(content: Content, encoding: str, byte: int, offset: int, line: int) -> DataError:
    expected = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
    return DataError(
        f"byte 0x{byte:02x} at offset {offset} is not {expected}: save the file as UTF-8 "
        "(a file from Windows is often cp1252: iconv -f cp1252 -t utf-8)",
        path=content.name,
        row=line,
    )
