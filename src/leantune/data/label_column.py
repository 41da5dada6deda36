"""Reads label cells: one label per row or, for cells that are lists or split at a separator, any number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TypeAlias

from leantune.config.problem_type import LabelType
from leantune.data.text.cells import LabelReader, is_missing
from leantune.data.text.table import Row, place_of
from leantune.errors import DataError
from leantune.system.messages import place_name, shown, type_word

SEPARATOR = "|"
"""Separates the labels in a text cell."""

Label: TypeAlias = str | tuple[str, ...]
"""The label of a row, or a tuple of all its labels without repeats."""


class LabelColumn:
    """The labels of one column, checked over all batches of a pass.

    The first cell decides: a list means that rows have several labels. `LabelReader` defines a valid label.

    Args:
        name: the file, for messages.
        column: the column, for messages.
        class_names: the class names of a ``ClassLabel`` column, else None.
        splits: whether text cells hold labels separated by `SEPARATOR`; an empty cell then has no labels.
    """

    def __init__(self, name: str, column: str, class_names: Sequence[str] | None, *, splits: bool) -> None:
        self._name, self._column, self._splits = name, column, splits
        self._reader = LabelReader(name, column, class_names)
        self._has_several: bool | None = True if splits else None

    @property
    def num_stripped(self) -> int:
        """Labels so far that had blanks around them, which are removed."""
        return self._reader.num_stripped

    @property
    def label_type(self) -> LabelType | None:
        """Type of the labels so far; None: texts."""
        return self._reader.label_type

    def labels_of(
        self, cells: Sequence[object], rows: Sequence[Row], is_blank: Sequence[bool] | None = None
    ) -> list[Label]:
        """Return the labels of one batch.

        Args:
            cells: one cell per row.
            rows: the row number to print for each cell.
            is_blank: whether the text of each row is blank; such a row may lack its label, which is then an empty text.

        Raises:
            DataError: a missing or invalid label, or a cell that is not a list in a column of lists.
        """
        if is_blank is not None and any(is_blank):
            lacks = [blank and is_missing(cell) for cell, blank in zip(cells, is_blank, strict=True)]
            having = [i for i, lacking in enumerate(lacks) if not lacking]
            found = iter(self.labels_of([cells[i] for i in having], [rows[i] for i in having]))
            none: Label = () if self._has_several else ""
            return [none if lacking else next(found) for lacking in lacks]
        if self._has_several is None and len(cells):
            self._has_several = type(cells[0]) is list
        if not self._has_several:
            return list(self._reader.texts_of(cells, rows))
        items = [self._items_of(cell, row) for cell, row in zip(cells, rows, strict=True)]
        flat = [item for own in items for item in own]
        row_of_each = [row for own, row in zip(items, rows, strict=True) for _ in own]
        texts = self._reader.texts_of(flat, row_of_each)
        ends = accumulate(map(len, items), initial=0)
        return [tuple(dict.fromkeys(texts[start:end])) for start, end in pairwise(ends)]

    def _items_of(self, cell: object, row: Row) -> Sequence[object]:
        if isinstance(cell, list):
            return cell
        if not self._splits:
            found = "no labels" if cell is None else f"{type_word(cell)} ({shown(cell)})"
            place = place_of(row, self._name)
            raise DataError(
                f"{found}, expected a list of labels as in the rows before: a text without any has an empty list",
                path=place.file,
                row=place.row,
                column=place_name(self._column),
            )
        if cell is None or cell == "":
            return ()
        return cell.split(SEPARATOR) if isinstance(cell, str) else (cell,)
