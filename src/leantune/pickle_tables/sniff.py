"""Recognizes a pickle by its first bytes and its last byte."""

from __future__ import annotations

import io
import re
import struct

from leantune.pickle_tables.opcodes import BY_BYTE, declared_length, read_argument

# Tables begin with a mark, a list, a dict or a name.
_FIRST_BYTES_OF_TEXT_PICKLES = (b"(", b"]", b"}", b"c")
_MIN_KINDS = 3
"""Smallest number of opcodes examined; the shortest pickle of a list has four."""

_LAST_TEXT_PROTOCOL = 1
_MODULE_AND_NAME = re.compile(rb"[\w.]*(\n[\w.]*\n?)?")
_MAX_DECLARED = 2**26
"""Largest plausible length of an argument in bytes; four characters of text read as a length give more."""


def looks_like_pickle(head: bytes, last_byte: bytes | None) -> bool:
    """Whether a file is a pickle.

    Protocols 2 and later are recognized by their first byte, which does not occur at the beginning of a text. Older
    ones are recognized by their grammar: the last byte is STOP, and the first bytes parse as opcodes.

    Args:
        head: the first bytes.
        last_byte: the last byte, or None if it is not known.
    """
    if head[:1] == b"\x80":
        return True
    if head[:1] not in _FIRST_BYTES_OF_TEXT_PICKLES or last_byte not in (b".", None):
        return False
    return _parses_to_the_end(head)


def _parses_to_the_end(head: bytes) -> bool:
    stream = io.BytesIO(head)
    kinds = set()
    while opcode := BY_BYTE.get(stream.read(1)):
        start = stream.tell() - 1
        if opcode.proto > _LAST_TEXT_PROTOCOL or declared_length(head, start, opcode) > _MAX_DECLARED:
            return False
        try:
            read_argument(opcode, stream)
        except (ValueError, OverflowError, struct.error):
            # An argument cut off by the end of the head is allowed; any other invalid argument is not.
            if stream.tell() < len(head):
                return False
        if opcode.name == "GLOBAL" and not _MODULE_AND_NAME.fullmatch(head[start + 1 : stream.tell()]):
            return False
        kinds.add(opcode.name)
    return len(kinds) >= _MIN_KINDS and stream.tell() == len(head)
