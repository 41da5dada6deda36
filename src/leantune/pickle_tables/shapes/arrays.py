"""Matches arrays and scalars of NumPy 1 and 2, in every pickle protocol.

After checking that the number of bytes fits the shape, ``numpy.frombuffer`` gets the bytes of an array with a dtype
that is made here from a letter and a size.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leantune.pickle_tables.nodes import Built, Name
from leantune.pickle_tables.shapes import match
from leantune.pickle_tables.shapes.match import Mismatch
from leantune.system.messages import Opaque

_TYPE = re.compile(r"([biufUSMmO])(\d{0,6})", re.ASCII)
_NUMBER_BYTES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "M": (8,), "m": (8,)}
_CHARACTER_BYTES = {"U": 4, "S": 1}
_LAST_CHARACTER = 0x10FFFF


@dataclass(frozen=True, slots=True)
class Array:
    """An array of shape (rows,) or (columns, rows).

    Args:
        shape: the shape.
        values: an array of ``shape``, or a flat list of the nodes of an array of objects.
    """

    shape: tuple[int, ...]
    values: npt.NDArray[np.generic] | list[object]


@dataclass(frozen=True, slots=True)
class _Type:
    """NumPy's letter, the bytes of an item (0 for objects), and the byte order."""

    letter: str
    item_bytes: int
    order: str


def is_array(node: object) -> bool:
    """Whether a node describes an array."""
    return match.is_built(node, "numpy._reconstruct", "numpy._frombuffer")


def array(node: object) -> Array:
    """Return the array that a node describes.

    Raises:
        Mismatch: the node is not an array, its type is not supported, or its data do not fit its shape.
    """
    if match.is_built(node, "numpy._frombuffer"):
        raw, dtype, shape, order = match.args_of(node, "numpy._frombuffer", 4)
        if order not in ("C", "F"):
            raise Mismatch(order, "'C' or 'F'")
        return _array(raw, dtype, _shape(shape), is_fortran=order == "F")
    version, shape, dtype, is_fortran, raw = match.tuple_of(_reconstructed_state(node), 5)
    if version != 1 or type(is_fortran) is not bool:
        raise Mismatch(version, "version 1 of an array's state")
    return _array(raw, dtype, _shape(shape), is_fortran=is_fortran)


def one_dimensional(node: object) -> npt.NDArray[np.generic]:
    """Return a one-dimensional array of numbers, such as codes, masks or positions."""
    found = array(node)
    if len(found.shape) != 1 or isinstance(found.values, list):
        raise Mismatch(node, "an array of numbers of one dimension")
    return found.values


def scalar(node: object) -> object:
    """Return a NumPy scalar as a Python value."""
    dtype, raw = match.args_of(node, "numpy.scalar", 2)
    values = _array(raw, dtype, (1,), is_fortran=False).values
    return values[0] if isinstance(values, list) else values.tolist()[0]


def _reconstructed_state(node: object) -> object:
    if not isinstance(node, Built) or node.kind != "numpy._reconstruct" or len(node.args) != 3 or node.pairs:
        raise Mismatch(node, "an array")
    subtype, shape, letter = node.args
    if not isinstance(subtype, Name) or subtype.kind != "numpy.ndarray" or (shape, letter) != ((0,), b"b"):
        raise Mismatch(node, "an empty array to fill")
    return node.state


def _shape(node: object) -> tuple[int, ...]:
    shape = tuple(map(match.size_of, match.tuple_from(node, 1)))
    if len(shape) > 2:
        raise Mismatch(node, "one or two dimensions")
    return shape


def _array(raw: object, dtype: object, shape: tuple[int, ...], *, is_fortran: bool) -> Array:
    kind = _type(dtype)
    if kind.letter == "O":
        return Array(shape, _objects(match.list_of(raw), shape))
    data = match.bytes_of(raw)
    count = math.prod(shape)
    if len(data) != count * kind.item_bytes:
        raise Mismatch(raw, f"{count * kind.item_bytes:,} bytes for the shape {shape}, not {len(data):,}")
    if kind.letter in "Mm":
        return Array(shape, [Opaque("a date or a time")] * count)
    if kind.item_bytes == 0:
        return Array(shape, [_empty(kind, count)])
    values = np.frombuffer(data, f"{kind.order}{kind.letter}{_units(kind)}")
    _check_characters(values, kind)
    return Array(shape, values.reshape(shape, order="F" if is_fortran else "C"))


def _empty(kind: _Type, count: int) -> object:
    """Return the empty text of a scalar; arrays of empty texts have room for one character in each item."""
    if count != 1:
        raise Mismatch(count, "items that take up space")
    return "" if kind.letter == "U" else b""


def _objects(nodes: list[object], shape: tuple[int, ...]) -> list[object]:
    """Return the objects of an array; NumPy lists them in C order, whatever the order of the array."""
    if len(nodes) != math.prod(shape):
        raise Mismatch(nodes, f"{math.prod(shape):,} objects for the shape {shape}, not {len(nodes):,}")
    return nodes


def _type(node: object) -> _Type:
    if match.is_built(node, "numpy._convert_to_stringdtype_kwargs"):
        return _Type("O", 0, "|")
    if not isinstance(node, Built) or node.kind != "numpy.dtype" or len(node.args) != 3 or node.pairs:
        raise Mismatch(node, "a type of NumPy")
    spelling, *flags = node.args
    spelled = _TYPE.fullmatch(spelling) if type(spelling) is str else None
    if spelled is None or flags != [False, True]:
        raise Mismatch(spelling, "a type of numbers, texts, dates or objects")
    _, order, subarray, names, fields, *_ = match.tuple_from(node.state, 8)
    if order not in ("<", ">", "|", "=") or (subarray, names, fields) != (None, None, None):
        raise Mismatch(node, "a type without parts")
    return _sized(node, spelled[1], int(spelled[2] or 8), str(order))


def _sized(node: object, letter: str, size: int, order: str) -> _Type:
    if letter == "O":
        return _Type(letter, 0, order)
    if letter not in _CHARACTER_BYTES and size not in _NUMBER_BYTES[letter]:
        raise Mismatch(node, f"a supported size of the type {letter}")
    return _Type(letter, size * _CHARACTER_BYTES.get(letter, 1), order)


def _units(kind: _Type) -> int:
    return kind.item_bytes // _CHARACTER_BYTES.get(kind.letter, 1)


def _check_characters(values: npt.NDArray[np.generic], kind: _Type) -> None:
    if kind.letter == "U":
        codes = values.view(f"{kind.order}u4")
        if codes.size and int(codes.max()) > _LAST_CHARACTER:
            raise Mismatch(hex(int(codes.max())), "a character")
