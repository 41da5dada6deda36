"""A small pickle assembler: it writes what no pickler would, and runs nothing."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any


@dataclass
class Ref:
    """A name, as GLOBAL or (with ``stack``) as STACK_GLOBAL."""

    module: str
    name: str
    stack: bool = False


@dataclass
class Call:
    """A name called with arguments by REDUCE (or NEWOBJ), then given a state by BUILD."""

    function: Any
    args: tuple[Any, ...] = ()
    state: Any = ...
    opcode: bytes = b"R"


@dataclass
class Raw:
    """Opcodes as they are."""

    opcodes: bytes


def pickled(value: Any, protocol: int = 2) -> bytes:
    """A whole pickle of a value that may hold ``Ref``, ``Call`` and ``Raw``."""
    return bytes([0x80, protocol]) + assembled(value) + b"."


def assembled(value: Any) -> bytes:
    """The opcodes that push a value."""
    if isinstance(value, Raw):
        return value.opcodes
    if isinstance(value, Ref):
        if value.stack:
            return assembled(value.module) + assembled(value.name) + b"\x93"
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        state = b"" if value.state is ... else assembled(value.state) + b"b"
        return assembled(value.function) + assembled(value.args) + value.opcode + state
    if isinstance(value, tuple):
        return b"(" + b"".join(map(assembled, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(assembled, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(assembled(part) for pair in value.items() for part in pair) + b"u"
    return _leaf(value)


def _leaf(value: Any) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"I%d\n" % value
    if isinstance(value, str):
        encoded = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(encoded)) + encoded
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    raise TypeError(type(value))
