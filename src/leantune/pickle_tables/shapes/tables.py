"""Matches the table in a pickle: a dict of columns, a list of rows or texts, or a table of a library."""

from __future__ import annotations

from leantune.errors import DataError, UsageError
from leantune.pickle_tables.columns import Column, DecodedTable, ListColumn
from leantune.pickle_tables.nodes import UNSET, Built, Mapping, Pairs
from leantune.pickle_tables.shapes import arrays, frames, saved
from leantune.pickle_tables.shapes.cells import cell, column
from leantune.pickle_tables.shapes.match import Mismatch
from leantune.system.messages import listed, place_name, shown, type_word


def match_table(root: object, name: str, split: str) -> DecodedTable:
    """Return the table that the nodes of a pickle describe.

    Args:
        root: the pickle's value.
        name: the file, for messages.
        split: the split of a DatasetDict.

    Raises:
        Mismatch: the nodes are not a known table.
        DataError: the columns of a known table cannot be read.
        UsageError: the DatasetDict does not have this split.
    """
    if saved.is_dataset_dict(root):
        root = _split(root, name, split)
    if saved.is_dataset(root):
        return saved.dataset_table(root)
    return DecodedTable(_checked(_columns(root, name), name))


def _split(root: object, name: str, split: str) -> object:
    splits = saved.dataset_splits(root)
    if split not in splits:
        raise UsageError(
            f"{name}: no split {shown(split)}, it has {listed(map(str, splits))}: choose one of them"
        )
    return splits[split]


def _columns(root: object, name: str) -> list[tuple[object, Column]]:
    """Return the columns of the table with their labels as they are in the pickle."""
    if frames.is_frame(root):
        return frames.frame_columns(root)
    if frames.is_series(root):
        label, series = frames.series_column(root)
        return [("text" if label is None else label, series)]
    if arrays.is_array(root):
        return [("text", column(root))]
    if isinstance(root, Mapping):
        return [(label, _column_of_dict(values)) for label, values in root.pairs]
    if (
        isinstance(root, Built)
        and root.kind == "collections.OrderedDict"
        and root.args == ()
        and root.state is UNSET
    ):
        return [(label, _column_of_dict(values)) for label, values in root.pairs]
    if type(root) is list:
        return _columns_of_list(root, name)
    raise Mismatch(root, "a dict of columns, a list of dicts or texts, a DataFrame or a Dataset")


def _column_of_dict(values: object) -> Column:
    if frames.is_series(values):
        return frames.series_column(values)[1]
    return column(values)


def _columns_of_list(rows: list[object], name: str) -> list[tuple[object, Column]]:
    dicts = [row for row in rows if isinstance(row, Mapping)]
    if not dicts:
        return [("text", ListColumn(list(map(cell, rows))))]
    if len(dicts) < len(rows):
        raise Mismatch(
            next(row for row in rows if not isinstance(row, Mapping)), "a dict like the rows beside it"
        )
    labels = [label for label, _ in dicts[0].pairs]
    found = [_row(row.pairs, labels, number, name) for number, row in enumerate(dicts, start=1)]
    return [(label, ListColumn([cells[place] for cells in found])) for place, label in enumerate(labels)]


def _row(pairs: Pairs, labels: list[object], number: int, name: str) -> list[object]:
    """Return the cells of one row in the order of the first row's labels."""
    if not all(type(key) is str for key, _ in pairs):
        raise DataError("a key that is no text, expected names of columns", path=name, row=number)
    cells = dict(pairs)
    if len(cells) < len(pairs):
        raise DataError("the same key twice, expected every key once", path=name, row=number)
    missing = [label for label in labels if label not in cells]
    if missing:
        raise DataError(
            f"no such key in this row, which has {listed(map(str, cells))}: every row needs it",
            path=name,
            row=number,
            column=place_name(str(missing[0])),
        )
    return [cell(cells[label]) for label in labels]


def _checked(columns: list[tuple[object, Column]], name: str) -> dict[str, Column]:
    """Return columns by name after checking that the names are different texts and the lengths are equal."""
    found: dict[str, Column] = {}
    for label, values in columns:
        column_name = _column_name(label, name)
        if column_name in found:
            raise DataError(
                f"more than one column is named {shown(column_name)}: give every column its own name",
                path=name,
            )
        found[column_name] = values
    if not found:
        raise DataError("no columns, expected texts", path=name)
    shortest = min(found, key=lambda key: len(found[key]))
    for column_name, values in found.items():
        if len(values) != len(found[shortest]):
            raise DataError(
                f"no value in this row, but the column {shown(column_name)} has {len(values)}: "
                "give every column a value for every row",
                path=name,
                row=len(found[shortest]) + 1,
                column=place_name(shortest),
            )
    return found


def _column_name(node: object, name: str) -> str:
    label = cell(node)
    if type(label) is int:
        return str(label)
    if type(label) is not str:
        raise DataError(f"{type_word(label)} as a column's name, expected a text: rename it", path=name)
    return label
