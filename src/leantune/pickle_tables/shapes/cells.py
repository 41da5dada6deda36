"""Matches single cells and columns of cells."""

from __future__ import annotations

from leantune.pickle_tables.columns import ArrayColumn, Column, ListColumn
from leantune.pickle_tables.nodes import Built, Group, Mapping, Name
from leantune.pickle_tables.shapes import arrays, match
from leantune.pickle_tables.shapes.match import Mismatch
from leantune.system.messages import Opaque

_OPAQUE = {
    "datetime.date": "a date",
    "datetime.datetime": "a date",
    "datetime.time": "a time",
    "datetime.timedelta": "a duration",
    "pandas._unpickle_timestamp": "a date",
    "decimal.Decimal": "a decimal number",
    "uuid.UUID": "a UUID",
    "builtins.complex": "a complex number",
    "builtins.set": "a set",
    "builtins.frozenset": "a set",
    "numpy._reconstruct": "an array",
    "numpy._frombuffer": "an array",
}


def cell(node: object) -> object:
    """Return texts, numbers, None and bytes as they are, and ``Opaque`` for other values of cells.

    Raises:
        Mismatch: the node is not the value of a cell.
    """
    if node is None or isinstance(node, (str, int, float, bytes, Opaque)):
        return node
    if isinstance(node, Built):
        return _object(node)
    if isinstance(node, Name) and node.kind == "pandas.NA":
        return None
    if isinstance(node, (list, tuple)):
        return Opaque("a list")
    if isinstance(node, Mapping):
        return Opaque("an object")
    if isinstance(node, Group):
        return Opaque("a set")
    if isinstance(node, bytearray):
        return bytes(node)
    raise Mismatch(node, "a cell")


def column(node: object) -> Column:
    """Return a list, a tuple or a one-dimensional array as a column."""
    if isinstance(node, (list, tuple)):
        return ListColumn(list(map(cell, node)))
    columns = array_columns(arrays.array(node))
    if len(columns) != 1:
        raise Mismatch(node, "one dimension")
    return columns[0]


def array_columns(array: arrays.Array) -> list[Column]:
    """Return the column of an array (rows,), or the columns of an array (columns, rows)."""
    num_columns, num_rows = (1, *array.shape)[-2:]
    if not isinstance(array.values, list):
        return [ArrayColumn(row) for row in array.values.reshape(num_columns, num_rows)]
    values = list(map(cell, array.values))
    return [ListColumn(values[index * num_rows : (index + 1) * num_rows]) for index in range(num_columns)]


def _object(node: Built) -> object:
    if node.kind == "numpy.scalar":
        return cell(arrays.scalar(node))
    if match.is_built(node, "pandas._nat_unpickle", "pandas.__nat_unpickle"):
        return None
    if node.kind not in _OPAQUE:
        raise Mismatch(node, "a cell")
    return Opaque(_OPAQUE[node.kind])
