"""The opcodes of one pickle, parsed by the readers of ``pickletools`` and never executed."""

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
"""Byte -> what ``pickletools`` knows about the opcode."""

# The readers of pickletools undo escapes in these lines, which unpickling does not.
_NUM_LINES = {"GLOBAL": 2, "INST": 2, "STRING": 1, "PERSID": 1}

# Code, registries, objects outside the file, copies, and the texts of Python 2.
_REFUSED = frozenset(
    (
        *("INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"),
        *("NEXT_BUFFER", "READONLY_BUFFER", "DUP", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    )
)


class Place(NamedTuple):
    """Where something was found: the name of an opcode and its first byte."""

    opcode: str
    start: int


def opcodes(data: bytes, name: str) -> Iterator[tuple[str, object, int]]:
    """The opcodes of a pickle up to and with STOP: their names in ``pickletools``, arguments and first bytes.

    PROTO and FRAME are checked and left out.

    Args:
        data: the whole pickle.
        name: the file, for messages.

    Raises:
        UnsafeFileError: an opcode that no table needs, or something that no pickler writes: another
            protocol, a broken frame, a length beyond any file, bytes after STOP, more than ``MAX_OPCODES``.
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
    """The error for something at a place in a pickle that is not part of any table."""
    where = f"byte {place.start}, {place.opcode}" if isinstance(place, Place) else place
    return UnsafeFileError(
        f"{name}: {where}: {found}; refused, and nothing of it was run: "
        "save the rows as CSV, JSON lines or Parquet"
    )


def _read(stream: io.BytesIO, data: bytes, name: str) -> tuple[str, object]:
    """The next opcode and its argument; nothing of an opcode that is refused is read."""
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
    # What the readers of pickletools raise on bytes that are no argument.
    except (ValueError, OverflowError, struct.error) as error:
        declared = declared_length(data, start, opcode)
        if declared > MAX_BYTES:
            raise refusal(name, Place(opcode.name, start), f"{declared:,} bytes declared") from error
        if stream.tell() < len(data):
            raise refusal(name, Place(opcode.name, start), "an argument that cannot be read") from error
        raise _cut_short(name, start, len(data)) from error


def read_argument(opcode: pickletools.OpcodeInfo, stream: io.BytesIO) -> object:
    """The argument that follows an opcode; a tuple of texts for those that are written as lines.

    Raises:
        ValueError, OverflowError, struct.error: no such argument.
    """
    if opcode.name in _NUM_LINES:
        return tuple(_line(stream) for _ in range(_NUM_LINES[opcode.name]))
    return None if opcode.arg is None else opcode.arg.reader(stream)


def declared_length(data: bytes, start: int, opcode: pickletools.OpcodeInfo) -> int:
    """The length that the argument of the opcode at byte ``start`` begins with; 0 if it has none."""
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
