"""Telling a pickle from other files by its first bytes."""

from __future__ import annotations

import io
import struct

from leantune.data.pickles.opcodes import BY_BYTE, read_argument

# Tables begin with a mark, a list, a dict or a name.
_FIRST_BYTES_OF_TEXT_PICKLES = (b"(", b"]", b"}", b"c")
_MIN_OPCODES = 3


def looks_like_pickle(head: bytes, last_byte: bytes | None) -> bool:
    """Whether a file is a pickle.

    Protocols 2 and up say so in their first byte, which begins no text. Older ones are told from text by
    their grammar: the last byte is STOP, and the first bytes parse as opcodes up to their end.

    Args:
        head: the first bytes.
        last_byte: the last one, or None if it is not known.
    """
    if head[:1] == b"\x80":
        return True
    if head[:1] not in _FIRST_BYTES_OF_TEXT_PICKLES or last_byte not in (b".", None):
        return False
    return _parses_to_the_end(head)


def _parses_to_the_end(head: bytes) -> bool:
    stream = io.BytesIO(head)
    num_opcodes = 0
    try:
        while opcode := BY_BYTE.get(stream.read(1)):
            read_argument(opcode, stream)
            num_opcodes += 1
    except (ValueError, OverflowError, struct.error):
        # An argument that the end of the head cuts off is no sign against a pickle; any other is.
        pass
    return num_opcodes >= _MIN_OPCODES and stream.tell() == len(head)
