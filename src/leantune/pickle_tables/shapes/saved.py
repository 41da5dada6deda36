"""Matches ``datasets.Dataset`` and ``datasets.DatasetDict`` that were in memory when pickled."""

from __future__ import annotations

import pyarrow as pa

from leantune.pickle_tables.columns import ArrowColumn, Column, DecodedTable, OpaqueColumn
from leantune.pickle_tables.nodes import Built, Mapping
from leantune.pickle_tables.shapes import match
from leantune.pickle_tables.shapes.arrow import table_columns
from leantune.pickle_tables.shapes.match import Mismatch

_ON_DISK = "rows in the pickle; it holds only the path of an Arrow file: save the dataset with to_parquet"


def is_dataset(node: object) -> bool:
    """Whether a node describes a Dataset."""
    return match.is_built(node, "datasets.Dataset")


def is_dataset_dict(node: object) -> bool:
    """Whether a node describes a DatasetDict."""
    return match.is_built(node, "datasets.DatasetDict")


def dataset_splits(node: object) -> dict[object, object]:
    """Return the nodes of a DatasetDict's datasets by split."""
    assert isinstance(node, Built)
    names = [split for split, _ in node.pairs]
    if node.args != () or not all(type(name) is str for name in names) or len(set(names)) < len(names):
        raise Mismatch(node, "datasets by split")
    return dict(node.pairs)


def dataset_table(node: object) -> DecodedTable:
    """Return the rows of a Dataset in order, and its class names."""
    state = match.state_of(node, "datasets.Dataset")
    columns = _table(match.member(state, "_data"))
    indices = match.member(state, "_indices")
    if indices is not None:
        columns = _taken(columns, _row_numbers(indices), node)
    features = match.member(match.state_of(match.member(state, "_info"), "datasets.DatasetInfo"), "features")
    return DecodedTable(columns, _class_names(features))


def _table(node: object) -> dict[str, Column]:
    if match.is_built(node, "datasets.MemoryMappedTable"):
        raise Mismatch(node, _ON_DISK)
    if match.is_built(node, "datasets.ConcatenationTable"):
        return _concatenated(match.member(match.state_of(node, "datasets.ConcatenationTable"), "blocks"))
    return table_columns(match.member(match.state_of(node, "datasets.InMemoryTable"), "table"))


def _concatenated(blocks: object) -> dict[str, Column]:
    """Return the columns of concatenated blocks: a list of rows, each a list of tables side by side."""
    rows = []
    for row in match.list_of(blocks):
        side_by_side: dict[str, Column] = {}
        for block in match.list_of(row):
            side_by_side.update(_table(block))
        if len(set(map(len, side_by_side.values()))) > 1:
            raise Mismatch(row, "blocks of equal length")
        rows.append(side_by_side)
    if not rows or any(row.keys() != rows[0].keys() for row in rows):
        raise Mismatch(blocks, "blocks with the same columns")
    return {name: _joined([row[name] for row in rows], blocks) for name in rows[0]}


def _joined(columns: list[Column], node: object) -> Column:
    chunks = [column.values for column in columns if isinstance(column, ArrowColumn)]
    if len(chunks) < len(columns):
        return OpaqueColumn(sum(map(len, columns)))
    if any(values.type != chunks[0].type for values in chunks):
        raise Mismatch(node, "blocks of the same types")
    return ArrowColumn(
        pa.chunked_array([chunk for values in chunks for chunk in values.chunks], chunks[0].type)
    )


def _row_numbers(node: object) -> list[object]:
    columns = list(_table(node).values())
    if len(columns) != 1 or not isinstance(columns[0], ArrowColumn):
        raise Mismatch(node, "one column of row numbers")
    if not pa.types.is_unsigned_integer(columns[0].values.type) or columns[0].values.null_count:
        raise Mismatch(node, "row numbers")
    return columns[0].cells(0, len(columns[0]))


def _taken(columns: dict[str, Column], rows: list[object], node: object) -> dict[str, Column]:
    try:
        return {name: _taken_column(column, pa.array(rows, pa.uint64())) for name, column in columns.items()}
    except pa.ArrowIndexError as error:
        raise Mismatch(node, "row numbers of its rows") from error


def _taken_column(column: Column, rows: pa.Array) -> Column:
    return (
        ArrowColumn(column.values.take(rows)) if isinstance(column, ArrowColumn) else OpaqueColumn(len(rows))
    )


def _class_names(features: object) -> dict[str, tuple[str, ...]]:
    """Return the class names of every ``ClassLabel`` among the features of a dataset."""
    if features is None:
        return {}
    found = _features(features)
    return {
        str(column): _names(feature)
        for column, feature in found.pairs
        if match.is_built(feature, "datasets.ClassLabel")
    }


def _features(node: object) -> Mapping:
    (found,) = match.args_of(node, "datasets.Features", 1)
    if not isinstance(found, Mapping):
        raise Mismatch(node, "features by column")
    return found


def _names(feature: object) -> tuple[str, ...]:
    names = match.list_of(match.member(match.state_of(feature, "datasets.ClassLabel"), "names"))
    if not all(type(name) is str for name in names) or len(set(map(str, names))) < len(names):
        raise Mismatch(feature, "different class names")
    return tuple(map(str, names))
