"""Matches Arrow arrays and tables and builds them from their buffers; every array is fully validated before use."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from leantune.pickle_tables.columns import ArrowColumn, Column, OpaqueColumn
from leantune.pickle_tables.shapes import match
from leantune.pickle_tables.shapes.match import Mismatch
from leantune.system.messages import one_line

_ALIASES = frozenset(
    (
        *("string", "utf8", "large_string", "large_utf8", "string_view", "binary", "large_binary", "null"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("bool", "halffloat", "float", "double"),
    )
)
_OPAQUE_ALIASES = frozenset(
    (
        *("date32", "date64", "date32[day]", "date64[ms]"),
        *("time32[s]", "time32[ms]", "time64[us]", "time64[ns]"),
    )
)
_OPAQUE_TYPES = (
    *("pyarrow.list_", "pyarrow.large_list", "pyarrow.struct", "pyarrow.timestamp", "pyarrow.duration"),
    *("pyarrow.time32", "pyarrow.time64", "pyarrow.decimal128"),
)


def arrow_column(node: object) -> Column:
    """Return an Arrow array as a column, which is opaque if its type is for neither texts nor labels.

    Raises:
        Mismatch: the node is not an Arrow array, or its buffers are not a valid array.
    """
    chunks, dtype = _chunks(node)
    if dtype is None:
        return OpaqueColumn(sum(map(_length, chunks)))
    arrays = list(map(_array, chunks))
    if any(array.type != dtype for array in arrays):
        raise Mismatch(node, f"chunks of the type {dtype}")
    return ArrowColumn(pa.chunked_array(arrays, dtype))


def table_columns(node: object) -> dict[str, Column]:
    """Return the columns of a ``pyarrow.Table`` by name."""
    columns, schema = match.args_of(node, "pyarrow._reconstruct_table", 2)
    fields, _ = match.args_of(schema, "pyarrow.schema", 2)
    names = [match.args_of(field, "pyarrow.field", 4)[0] for field in match.list_of(fields)]
    found = list(map(arrow_column, match.list_of(columns)))
    if len(names) != len(found) or not all(type(name) is str for name in names):
        raise Mismatch(node, "one name for every column")
    if len(set(names)) < len(names) or len(set(map(len, found))) > 1:
        raise Mismatch(node, "different names and equal lengths")
    return {str(name): column for name, column in zip(names, found, strict=True)}


def _chunks(node: object) -> tuple[list[object], pa.DataType | None]:
    if match.is_built(node, "pyarrow.chunked_array"):
        chunks, dtype = match.args_of(node, "pyarrow.chunked_array", 2)
        return match.list_of(chunks), _type(dtype)
    dtype, *_ = _parts(node)
    return [node], _type(dtype)


def _parts(node: object) -> Sequence[object]:
    """Return type, length, null count, offset, buffers, children and dictionary of one array."""
    return match.tuple_of(match.args_of(node, "pyarrow._restore_array", 1)[0], 7)


def _length(node: object) -> int:
    return match.size_of(_parts(node)[1])


def _array(node: object) -> pa.Array:
    dtype_node, length, _, offset, buffers, children, dictionary = _parts(node)
    dtype = _type(dtype_node)
    if dtype is None or match.list_of(children):
        raise Mismatch(node, "an array of texts or numbers")
    sizes = (match.size_of(length), match.size_of(offset))
    try:
        array = _from_buffers(dtype, sizes, list(map(_buffer, match.list_of(buffers))), dictionary)
        array.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        raise Mismatch(node, f"valid buffers ({one_line(error)})") from error
    return array


def _from_buffers(
    dtype: pa.DataType, sizes: tuple[int, int], buffers: list[pa.Buffer | None], dictionary: object
) -> pa.Array:
    """Build an array without the file's null count, so that Arrow counts the nulls itself."""
    length, offset = sizes
    if not pa.types.is_dictionary(dtype):
        return pa.Array.from_buffers(dtype, length, buffers, offset=offset)
    indices = pa.Array.from_buffers(dtype.index_type, length, buffers, offset=offset)
    indices.validate(full=True)
    return pa.DictionaryArray.from_arrays(indices, _array(dictionary), ordered=dtype.ordered)


def _buffer(node: object) -> pa.Buffer | None:
    if node is None:
        return None
    return pa.py_buffer(match.bytes_of(match.args_of(node, "pyarrow.py_buffer", 1)[0]))


def _type(node: object) -> pa.DataType | None:
    """Return the type, or None for a type whose values are neither texts nor labels."""
    if match.is_built(node, *_OPAQUE_TYPES):
        return None
    if match.is_built(node, "pyarrow.dictionary"):
        index, value, is_ordered = match.args_of(node, "pyarrow.dictionary", 3)
        return _dictionary_type(node, _type(index), _type(value), is_ordered=is_ordered is True)
    (alias,) = match.args_of(node, "pyarrow.type_for_alias", 1)
    if type(alias) is not str or alias not in _ALIASES | _OPAQUE_ALIASES:
        raise Mismatch(alias, "a type of texts or numbers")
    return pa.type_for_alias(alias) if alias in _ALIASES else None


def _dictionary_type(
    node: object, index: pa.DataType | None, value: pa.DataType | None, *, is_ordered: bool
) -> pa.DataType:
    if index is None or value is None or not pa.types.is_integer(index):
        raise Mismatch(node, "a dictionary of texts or numbers")
    return pa.dictionary(index, value, is_ordered)
