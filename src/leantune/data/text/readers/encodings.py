"""Detects the encoding of a text file: that of its byte order mark, UTF-8, or cp1252 if the whole file is valid cp1252.

Nearly every byte is valid cp1252, so it is not assumed for a file that may be damaged UTF-8: one that has UTF-8
characters beyond ASCII before the first bad byte, or that ends within a character.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from leantune.data.text.readers.content import Content
from leantune.data.text.readers.sniff import encoding_of
from leantune.errors import DataError

WINDOWS = "cp1252"

_BLOCK_BYTES = 2**18
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\N{REPLACEMENT CHARACTER}]")
"""Control characters, and the replacement for bytes that are not valid cp1252."""
_FROM_WINDOWS = ": save the file as UTF-8 (a file from Windows is often cp1252: iconv -f cp1252 -t utf-8)"


@dataclass(frozen=True, slots=True)
class BadByte:
    """The first byte of a file that is not valid in its encoding."""

    byte: int
    offset: int
    line: int
    ends_file: bool
    """Whether the file ends within the character that begins here."""
    follows_others: bool
    """Whether there are characters beyond ASCII before this byte."""

    def error(self, content: Content, encoding: str, advice: str = _FROM_WINDOWS) -> DataError:
        """Return the error for the user."""
        expected = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        return DataError(
            f"byte 0x{self.byte:02x} at offset {self.offset} is not {expected}{advice}",
            path=content.name,
            row=self.line,
        )


def text_encoding(content: Content) -> str:
    """Detect the encoding of a text file by reading all of it once.

    Raises:
        DataError: the file is neither UTF-8 nor cp1252 (the message names the first bad byte), or its compressed data
            are damaged.
    """
    encoding = encoding_of(content.head())
    if encoding != "utf-8":
        content.check_unpacked()
        return encoding
    bad = find_bad_byte(content, encoding)
    if bad is None:
        return encoding
    if bad.follows_others:
        advice = ", but characters before it are: repair the text there, or make the file again"
        raise bad.error(content, encoding, advice)
    if bad.ends_file:
        raise bad.error(content, encoding)
    if not _is_windows(content):
        raise bad.error(
            content, encoding, ", nor is the file cp1252: convert it (iconv -f ENCODING -t utf-8)"
        )
    return WINDOWS


def find_bad_byte(content: Content, encoding: str) -> BadByte | None:
    """Return the first byte that is not valid in the encoding, or None if all are."""
    decoder = codecs.getincrementaldecoder(encoding)()
    offset, line, is_ascii = 0, 1, True
    with content.open() as stream:
        while True:
            block = stream.read(_BLOCK_BYTES)
            before = decoder.getstate()
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                start = error.start - len(before[0])
                decoder.setstate(before)
                text = decoder.decode(block[: max(start, 0)])
                line += text.count("\n")
                others = not (is_ascii and text.isascii())
                return BadByte(error.object[error.start], offset + start, line, not block, others)
            line += text.count("\n")
            is_ascii = is_ascii and text.isascii()
            if not block:
                return None
            offset += len(block)


def _is_windows(content: Content) -> bool:
    """Whether every byte is a cp1252 character that may occur in a text."""
    decoder = codecs.getincrementaldecoder(WINDOWS)(errors="replace")
    with content.open() as stream:
        while block := stream.read(_BLOCK_BYTES):
            if _NO_TEXT.search(decoder.decode(block)):
                return False
    return True
