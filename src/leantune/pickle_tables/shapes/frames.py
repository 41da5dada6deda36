"""Matches ``pandas.DataFrame`` and ``pandas.Series`` of pandas 1.5, 2 and 3; the row index is not read.

A frame stores its columns in blocks of one type. Each block has the positions of its columns in the frame.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from leantune.pickle_tables.columns import Column, ListColumn
from leantune.pickle_tables.nodes import Built, Name
from leantune.pickle_tables.shapes import arrays, arrow, match
from leantune.pickle_tables.shapes.cells import array_columns, cell
from leantune.pickle_tables.shapes.match import Mismatch

Block = tuple[list[Column], object]
"""The columns of a block, and the node of their positions."""

MAX_LABELS = 2**20

_Sized = TypeVar("_Sized", range, Column)
_MASKED = ("pandas.IntegerArray", "pandas.FloatingArray", "pandas.BooleanArray")
_LABEL_INDEXES = (
    *("pandas.Index", "pandas.CategoricalIndex", "pandas.Int64Index", "pandas.UInt64Index"),
    "pandas.Float64Index",
)


def is_frame(node: object) -> bool:
    """Whether a node describes a DataFrame."""
    return match.is_built(node, "pandas.DataFrame")


def is_series(node: object) -> bool:
    """Whether a node describes a Series."""
    return match.is_built(node, "pandas.Series")


def frame_columns(node: object) -> list[tuple[object, Column]]:
    """Return the columns of a DataFrame in order, each with its label.

    Raises:
        Mismatch: the node is not a DataFrame, has several levels of labels, or its blocks do not fill the frame.
    """
    manager = match.member(match.state_of(node, "pandas.DataFrame"), "_mgr", "_data")
    axes, blocks = _manager(manager)
    labels = _labels(axes[0]) if axes else []
    placed: dict[int, Column] = {}
    for columns, positions in blocks:
        placed.update(zip(_positions(positions, len(columns)), columns, strict=True))
    if sorted(placed) != list(range(len(labels))) or sum(len(columns) for columns, _ in blocks) != len(
        labels
    ):
        raise Mismatch(manager, f"blocks that hold {len(labels)} columns")
    return [(label, placed[position]) for position, label in enumerate(labels)]


def series_column(node: object) -> tuple[object, Column]:
    """Return the name of a Series, which may be None, and its cells."""
    state = match.state_of(node, "pandas.Series")
    _, blocks = _manager(match.member(state, "_mgr", "_data"))
    columns = [column for found, _ in blocks for column in found]
    if len(columns) != 1:
        raise Mismatch(node, "one block")
    return cell(match.member(state, "_name", "name")), columns[0]


def _manager(node: object) -> tuple[list[object], list[Block]]:
    """Return the axes and blocks of a manager, from its arguments for a frame and from its state for a Series."""
    if match.is_built(node, "pandas.BlockManager"):
        blocks, axes = match.args_of(node, "pandas.BlockManager", 2)
        return match.list_of(axes), list(map(_block, match.tuple_from(blocks, 0)))
    state = match.tuple_of(match.state_of(node, "pandas.SingleBlockManager"), 4)
    parts = match.member(state[3], "0.14.1")
    described = match.list_of(match.member(parts, "blocks"))
    return match.list_of(match.member(parts, "axes")), [
        (_block_columns(match.member(block, "values")), match.member(block, "mgr_locs"))
        for block in described
    ]


def _block(node: object) -> Block:
    values, positions, _ = match.args_of(node, "pandas._unpickle_block", 3)
    return _block_columns(values), positions


def _positions(node: object, count: int) -> list[int]:
    if match.is_built(node, "builtins.slice"):
        start, stop, step = match.args_of(node, "builtins.slice", 3)
        if step is None or (type(step) is int and step > 0):
            found = range(match.size_of(start), match.size_of(stop), step or 1)
            return list(found) if len(found) == count else _misplaced(node, count)
        return _misplaced(node, count)
    positions = arrays.one_dimensional(node)
    if positions.dtype.kind not in "iu" or len(positions) != count:
        return _misplaced(node, count)
    return list(positions.tolist())


def _misplaced(node: object, count: int) -> list[int]:
    raise Mismatch(node, f"the positions of {count} columns")


def _block_columns(node: object) -> list[Column]:
    """Return the columns of a block's values: a NumPy array (columns, rows), or one pandas array."""
    if arrays.is_array(node):
        return array_columns(arrays.array(node))
    if match.is_built(node, "pandas.ArrowStringArray", "pandas.ArrowExtensionArray"):
        assert isinstance(node, Built)
        return [arrow.arrow_column(match.member(match.state_of(node, node.kind), "_pa_array", "_data"))]
    if match.is_built(node, *_MASKED):
        assert isinstance(node, Built)
        return [_masked_column(match.state_of(node, node.kind))]
    return _backed_columns(node)


def _masked_column(state: object) -> Column:
    """Return a column of values with a mask that is true for missing values."""
    values = arrays.one_dimensional(match.member(state, "_data"))
    mask = arrays.one_dimensional(match.member(state, "_mask"))
    if mask.dtype != np.bool_ or len(mask) != len(values):
        raise Mismatch(state, "a mask as long as the values")
    pairs = zip(values.tolist(), mask.tolist(), strict=True)
    return ListColumn([None if is_missing else value for value, is_missing in pairs])


def _backed_columns(node: object) -> list[Column]:
    """Return the columns of pandas arrays with a NumPy array and a type: texts, categories, dates, durations."""
    if (
        not isinstance(node, Built)
        or node.kind != "pandas.__pyx_unpickle_NDArrayBacked"
        or len(node.args) != 3
    ):
        raise Mismatch(node, "the values of a block")
    dtype, values, *_ = match.tuple_from(node.state, 2)
    subtype = node.args[0]
    kind = subtype.kind if isinstance(subtype, Name) else None
    if kind == "pandas.Categorical":
        return [_categorical_column(dtype, values)]
    if kind in ("pandas.StringArray", "pandas.DatetimeArray", "pandas.TimedeltaArray"):
        return array_columns(arrays.array(values))
    raise Mismatch(node, "texts, categories, dates or durations")


def _categorical_column(dtype: object, codes: object) -> Column:
    """Return a column from a code for each row (-1 if missing) and a category for each code."""
    categories = _labels(match.member(match.state_of(dtype, "pandas.CategoricalDtype"), "categories"))
    positions = arrays.one_dimensional(codes)
    if positions.dtype.kind != "i" or (
        len(positions) and not -1 <= int(positions.min()) <= int(positions.max()) < len(categories)
    ):
        raise Mismatch(codes, f"codes of {len(categories)} categories")
    return ListColumn([None if code < 0 else categories[code] for code in positions.tolist()])


def _labels(node: object) -> list[object]:
    """Return the labels of an index with one level."""
    index, parts = match.args_of(node, "pandas._new_Index", 2)
    kind = index.kind if isinstance(index, Name) else None
    if kind == "pandas.RangeIndex":
        return list(_short(_range(parts), node))
    if kind not in _LABEL_INDEXES:
        raise Mismatch(node, "labels on one level")
    columns = _block_columns(match.member(parts, "data"))
    if len(columns) != 1:
        raise Mismatch(node, "one label for every column")
    return columns[0].cells(0, len(_short(columns[0], node)))


def _range(parts: object) -> range:
    start, stop, step = (match.member(parts, key) for key in ("start", "stop", "step"))
    if type(start) is not int or type(stop) is not int or type(step) is not int or step == 0:
        raise Mismatch(parts, "a range of whole numbers")
    return range(start, stop, step)


def _short(labels: _Sized, node: object) -> _Sized:
    if len(labels) > MAX_LABELS:
        raise Mismatch(node, f"at most {MAX_LABELS:,} labels")
    return labels
