"""Parses the opcodes of a pickle with the readers of ``pickletools`` without executing them."""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Iterator
from typing import NamedTuple

from leantune.errors import DataError, UnsafeFileError

MAX_BYTES = 2**31
MAX_OPCODES = 50_000_000
MAX_PROTOCOL = 5

_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}

BY_BYTE = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
"""The description of each opcode in ``pickletools``, by its byte."""

# The readers of pickletools decode escapes in these lines, but unpickling does not.
_NUM_LINES = {"GLOBAL": 2, "INST": 2, "STRING": 1, "PERSID": 1}

# Code, registries, objects outside the file, copies, and the texts of Python 2.
_REFUSED = frozenset(
    (
        *("INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"),
        *("NEXT_BUFFER", "READONLY_BUFFER", "DUP", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    )
)


class Place(NamedTuple):
    """The place of a finding: the name of an opcode and the offset of its first byte."""

    opcode: str
    start: int


def opcodes(data: bytes, name: str) -> Iterator[tuple[str, object, int]]:
    """Yield the opcodes of a pickle up to and including STOP: name in ``pickletools``, argument and byte offset.

    PROTO and FRAME are checked but not yielded.

    Args:
        data: the whole pickle.
        name: the file, for messages.

    Raises:
        UnsafeFileError: the pickle has an opcode that no table needs, more than ``MAX_OPCODES`` opcodes, or something
            that no pickler writes: an unknown protocol, a broken frame, an impossible length, or bytes after STOP.
        DataError: the pickle is cut short.
    """
    stream = io.BytesIO(data)
    frame_end = start = 0
    for _ in range(MAX_OPCODES):
        kind, argument = _read(stream, data, name)
        end = stream.tell()
        if kind == "PROTO":
            _check_protocol(name, start, argument)
        elif kind == "FRAME":
            is_inside, frame_end = start < frame_end, end + int(str(argument))
            if is_inside or frame_end > MAX_BYTES:
                raise refusal(name, Place(kind, start), "a frame inside another or beyond any file")
        elif start < frame_end < end:
            raise refusal(name, Place(kind, start), "an opcode across the end of its frame")
        else:
            yield kind, argument, start
        if kind == "STOP":
            return _check_end(name, start, max(len(data), frame_end))
        start = end
    raise refusal(name, f"byte {start}", f"more than {MAX_OPCODES:,} opcodes")


def refusal(name: str, place: Place | str, found: str) -> UnsafeFileError:
    """Return the error for something in a pickle that is not part of any known table."""
    where = f"byte {place.start}, {place.opcode}" if isinstance(place, Place) else place
    return UnsafeFileError(
        f"{name}: {where}: {found}; refused, and nothing of it was run: "
        "save the rows as CSV, JSON lines or Parquet"
    )


def _read(stream: io.BytesIO, data: bytes, name: str) -> tuple[str, object]:
    """Read the next opcode and its argument; the argument of a refused opcode is not read."""
    start = stream.tell()
    byte = stream.read(1)
    if not byte:
        raise _cut_short(name, start, len(data))
    opcode = BY_BYTE.get(byte)
    if opcode is None:
        raise refusal(name, f"byte {start}", f"0x{byte[0]:02x} is no opcode of a pickle")
    if opcode.name in _REFUSED:
        raise refusal(name, Place(opcode.name, start), "an opcode that no table needs")
    try:
        return opcode.name, read_argument(opcode, stream)
    # The errors of the pickletools readers for bytes that are not a valid argument.
    except (ValueError, OverflowError, struct.error) as error:
        declared = declared_length(data, start, opcode)
        if declared > MAX_BYTES:
            raise refusal(name, Place(opcode.name, start), f"{declared:,} bytes declared") from error
        if stream.tell() < len(data):
            raise refusal(name, Place(opcode.name, start), "an argument that cannot be read") from error
        raise _cut_short(name, start, len(data)) from error


def read_argument(opcode: pickletools.OpcodeInfo, stream: io.BytesIO) -> object:
    """Read the argument of an opcode; arguments that are written as lines are returned as a tuple of texts.

    Raises:
        ValueError, OverflowError, struct.error: the argument is invalid.
    """
    if opcode.name in _NUM_LINES:
        return tuple(_line(stream) for _ in range(_NUM_LINES[opcode.name]))
    return None if opcode.arg is None else opcode.arg.reader(stream)


def declared_length(data: bytes, start: int, opcode: pickletools.OpcodeInfo) -> int:
    """Return the length at the beginning of the argument of the opcode at byte ``start``; 0 if it has none."""
    width = _LENGTH_BYTES.get(opcode.arg.n, 0) if opcode.arg is not None else 0
    return int.from_bytes(data[start + 1 : start + 1 + width], "little")


def _line(stream: io.BytesIO) -> str:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise ValueError("no end of line")
    return line[:-1].decode("utf-8")


def _cut_short(name: str, start: int, length: int) -> DataError:
    return DataError(
        f"the pickle is cut short at byte {start} of {length}: make or download the file again", path=name
    )


def _check_end(name: str, stop: int, length: int) -> None:
    if stop + 1 < length:
        raise refusal(name, Place("STOP", stop), f"{length - stop - 1} bytes after the end of the pickle")


def _check_protocol(name: str, start: int, protocol: object) -> None:
    if start > 0:
        raise refusal(name, Place("PROTO", start), "a second protocol")
    if int(str(protocol)) > MAX_PROTOCOL:
        raise refusal(name, Place("PROTO", start), f"protocol {protocol}, expected {MAX_PROTOCOL} or less")
