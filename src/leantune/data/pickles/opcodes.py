"""The opcodes of one pickle, parsed by ``pickletools.genops`` and never executed."""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Iterator
from typing import NamedTuple

from leantune.errors import DataError, LeantuneError, UnsafeFileError

MAX_BYTES = 2**31
MAX_OPCODES = 50_000_000
MAX_PROTOCOL = 5

_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}

_BY_BYTE = {ord(opcode.code): opcode for opcode in pickletools.opcodes}


class Opcode(NamedTuple):
    """One opcode: its name in ``pickletools``, its argument, its first byte and the byte after it."""

    name: str
    argument: object
    start: int
    end: int


def opcodes(data: bytes, name: str) -> Iterator[Opcode]:
    """The opcodes of a pickle up to and with STOP; PROTO and FRAME are checked and left out.

    Args:
        data: the whole pickle.
        name: the file, for messages.

    Raises:
        UnsafeFileError: something that no pickler writes: an unknown opcode or protocol, a broken
            frame, a length beyond any file, bytes after STOP, more than ``MAX_OPCODES``.
        DataError: the pickle is cut short.
    """
    frame_end = 0
    for number, opcode in enumerate(_parsed(data, name)):
        inside_frame = opcode.start < frame_end
        if number == MAX_OPCODES:
            raise refusal(name, opcode, f"more than {MAX_OPCODES:,} opcodes")
        if opcode.name == "PROTO":
            _check_protocol(name, opcode, number)
        elif opcode.name == "FRAME":
            frame_end = opcode.end + int(str(opcode.argument))
            if inside_frame or frame_end > len(data):
                raise refusal(name, opcode, "a frame inside another or beyond the end of the file")
        elif inside_frame and opcode.end > frame_end:
            raise refusal(name, opcode, "an opcode across the end of its frame")
        else:
            yield opcode
    if opcode.end < max(len(data), frame_end):
        raise refusal(name, opcode, f"{len(data) - opcode.end} bytes after the end of the pickle")


def refusal(name: str, opcode: Opcode, found: str) -> UnsafeFileError:
    """The error for something at an opcode that is not part of any table."""
    return refusal_at(name, f"byte {opcode.start}, {opcode.name}", found)


def refusal_at(name: str, place: str, found: str) -> UnsafeFileError:
    """The error for something at a place in a pickle."""
    return UnsafeFileError(
        f"{name}: {place}: {found}; refused, and nothing of it was run: "
        "save the rows as CSV, JSON lines or Parquet"
    )


def _parsed(data: bytes, name: str) -> Iterator[Opcode]:
    stream = io.BytesIO(data)
    parsed = pickletools.genops(stream)
    start = 0
    while True:
        try:
            opcode, argument, _ = next(parsed)
        except StopIteration:
            return
        # What the argument readers of pickletools raise on bytes that are no argument.
        except (ValueError, OverflowError, struct.error) as error:
            raise _unreadable(data, name, start, stream.tell()) from error
        end = stream.tell()
        yield Opcode(opcode.name, argument, start, end)
        start = end


def _unreadable(data: bytes, name: str, start: int, end: int) -> LeantuneError:
    known = _BY_BYTE.get(data[start]) if start < len(data) else None
    if start < len(data) and known is None:
        return refusal_at(name, f"byte {start}", f"0x{data[start]:02x} is no opcode of a pickle")
    if known is not None:
        declared = _declared_length(data, start, known)
        if declared > MAX_BYTES:
            return refusal_at(name, f"byte {start}, {known.name}", f"{declared:,} bytes declared")
        if end < len(data):
            return refusal_at(name, f"byte {start}, {known.name}", "an argument that cannot be read")
    return DataError(
        f"the pickle is cut short at byte {start} of {len(data)}: make or download the file again", path=name
    )


def _declared_length(data: bytes, start: int, opcode: pickletools.OpcodeInfo) -> int:
    width = _LENGTH_BYTES.get(opcode.arg.n, 0) if opcode.arg is not None else 0
    return int.from_bytes(data[start + 1 : start + 1 + width], "little")


def _check_protocol(name: str, opcode: Opcode, number: int) -> None:
    if number > 0:
        raise refusal(name, opcode, "a second protocol")
    if int(str(opcode.argument)) > MAX_PROTOCOL:
        raise refusal(name, opcode, f"protocol {opcode.argument}, expected {MAX_PROTOCOL} or less")
