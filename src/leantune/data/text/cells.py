"""Converts the cells of a table into checked texts, ids and labels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from leantune.config.problem_type import LabelType
from leantune.data.text.table import Row, place_of
from leantune.errors import DataError
from leantune.system.messages import place_name, shown, type_word

MAX_CLASSES = 65_536

_NUMBER = re.compile(r"[+-]?\d{1,30}(\.\d{0,30})?([eE][+-]?\d{1,3})?", re.ASCII)


def texts_of(
    cells: Sequence[object], rows: Sequence[Row], name: str, column: str, *, null_is_blank: bool
) -> list[str]:
    """Return the cells of a text column.

    Args:
        cells: one cell per row.
        rows: the row number to print for each cell.
        name: the file, for messages.
        column: the column, for messages.
        null_is_blank: read a null as an empty text.

    Raises:
        DataError: a cell is not a text, or contains half of a surrogate pair.
    """
    if null_is_blank:
        cells = ["" if cell is None else cell for cell in cells]
    texts = [cell for cell in cells if type(cell) is str]
    if len(texts) < len(cells) or not is_encodable("".join(texts)):
        raise _first_bad_text(cells, rows, name, column)
    return texts


def is_blank(text: str) -> bool:
    """Return whether a text is empty or consists of white space."""
    return not text or text.isspace()


def list_of_texts(values: Iterable[object], name: str = "") -> list[str]:
    """Return in-memory texts as a list of plain Python strings.

    Args:
        values: the texts.
        name: the argument, for messages.

    Raises:
        DataError: the value is a single text or a table, or an item is not a text.
    """
    place = f"{name}: " if name else ""
    if isinstance(values, str):
        raise DataError(f"{place}one text, expected a list of texts: put it into one")
    if isinstance(values, Mapping) or hasattr(values, "columns") or getattr(values, "ndim", 1) != 1:
        raise DataError(f"{place}a table, expected a list of texts: give its column of texts alone")
    texts = []
    for i, value in enumerate(values):
        if not isinstance(value, str) or not is_encodable(value):
            found = "half a surrogate pair" if isinstance(value, str) else type_word(value)
            raise DataError(f"{place}text {i} (counted from 0) is {found}, expected a text")
        texts.append(str(value))  # numpy has its own str type
    return texts


def ids_of(cells: Sequence[object], rows: Sequence[Row], name: str, column: str) -> list[str]:
    """Return the cells of an id column as texts; whole numbers become their digits.

    Raises:
        DataError: a cell of another type, or one that contains half of a surrogate pair.
    """
    for cell, row in zip(cells, rows, strict=True):
        if type(cell) not in (str, int):
            raise _error(f"{type_word(cell)}, expected a text or a whole number", name, row, column)
        if type(cell) is str and not is_encodable(cell):
            raise _half_a_character(cell, name, row, column)
    return [str(cell) for cell in cells]


def is_missing(cell: object) -> bool:
    """Return whether the cell of a label holds nothing."""
    return (
        cell is None
        or (isinstance(cell, str) and is_blank(cell))
        or (isinstance(cell, float) and math.isnan(cell))
    )


class LabelReader:
    """Converts the cells of one label column to canonical texts, checked over all batches of a pass.

    A text is kept as it is. A whole number becomes its digits: ``3`` becomes ``"3"``, and so does ``3.0`` if all
    labels are floats. A boolean becomes ``"True"`` or ``"False"``, and a ``datasets.ClassLabel`` number becomes the
    name of its class. All labels of a column must have one type, and a whole number must be spelled in one way.

    Args:
        name: the file, for messages.
        column: the column, for messages.
        class_names: the class names of a ``ClassLabel`` column, else None.
    """

    def __init__(self, name: str, column: str, class_names: Sequence[str] | None) -> None:
        self._name, self._column, self._class_names = name, column, class_names
        self._type: type | None = None
        self._known: dict[object, str] = {}
        self._stripped: set[object] = set()
        self.num_stripped = 0
        """Labels so far that had blanks around them, which are removed."""
        self._spellings: dict[Decimal, str] = {}

    @property
    def label_type(self) -> LabelType | None:
        """Type of the labels so far; None: texts. Floats are whole numbers, too."""
        if self._class_names is not None or self._type in (None, str):
            return None
        return "bool" if self._type is bool else "int"

    def texts_of(self, cells: Sequence[object], rows: Sequence[Row]) -> list[str]:
        """Return the labels of one batch.

        Raises:
            DataError: a missing label, one of another type, or one spelled differently elsewhere.
        """
        known, expected, labels = self._known, self._type, []
        for cell, row in zip(cells, rows, strict=True):
            if type(cell) is not expected or cell not in known:
                self._admit(cell, row)
                expected = self._type
            labels.append(known[cell])
        if self._stripped:
            self.num_stripped += sum(cell in self._stripped for cell in cells)
        return labels

    def _admit(self, cell: object, row: Row) -> None:
        """Check a label that has not been seen before and remember its text."""
        label = self._canonical(cell, row)
        if type(cell) is str and cell != cell.strip():
            self._stripped.add(cell)
        if self._type is None:
            self._type = type(cell)
        elif type(cell) is not self._type:
            first = next(iter(self._known))
            raise self._error(
                f"the label {shown(cell)} is {_exact_type(cell)}, but {shown(first)} before it is "
                f"{_exact_type(first)}: write all labels in one way",
                row,
            )
        if len(self._known) == MAX_CLASSES:
            raise self._error(f"more than {MAX_CLASSES:,} different labels: is this the label column?", row)
        self._known[cell] = label

    def _canonical(self, cell: object, row: Row) -> str:
        if is_missing(cell):
            raise self._error("no label, expected a class: fill it in or remove the row", row)
        if self._class_names is not None:
            return self._class_name(cell, self._class_names, row)
        if type(cell) is str:
            return self._checked_text(cell, row)
        if type(cell) is float:
            return self._checked_float(cell, row)
        if type(cell) in (int, bool):
            return str(cell)
        raise self._error(f"{type_word(cell)}, expected a label as a text or a whole number", row)

    def _class_name(self, cell: object, names: Sequence[str], row: Row) -> str:
        if type(cell) is not int or not -1 <= cell < len(names):
            raise self._error(f"{shown(cell)}, expected a class number from 0 to {len(names) - 1}", row)
        if cell == -1:
            raise self._error("no label (-1 in the class column): choose a split with labels", row)
        return names[cell]

    def _checked_text(self, text: str, row: Row) -> str:
        text = text.strip()
        if not is_encodable(text):
            raise self._error(f"the label {shown(text)} holds half of a surrogate pair: repair it", row)
        if _NUMBER.fullmatch(text) and (number := Decimal(text)) == number.to_integral_value():
            spelling = self._spellings.setdefault(number, text)
            if spelling != text:
                raise self._error(
                    f"the label {shown(text)} is the number that {shown(spelling)} is elsewhere: "
                    f"write both as {shown(min(text, spelling, key=len))}",
                    row,
                )
        return text

    def _checked_float(self, value: float, row: Row) -> str:
        if not value.is_integer():
            raise self._error(
                f"the label {value!r} is no whole number, expected classes: round it to a class, or "
                "choose another label column",
                row,
            )
        return str(int(value))

    def _error(self, message: str, row: Row) -> DataError:
        return _error(message, self._name, row, self._column)


def _first_bad_text(cells: Sequence[object], rows: Sequence[Row], name: str, column: str) -> DataError:
    for cell, row in zip(cells, rows, strict=True):
        if type(cell) is not str:
            return _error(
                f"{type_word(cell)}, expected a text: fill it in or write it as a text", name, row, column
            )
        if not is_encodable(cell):
            return _half_a_character(cell, name, row, column)
    raise AssertionError("every text is good")


def _half_a_character(text: str, name: str, row: Row, column: str) -> DataError:
    return _error(
        f"half of a surrogate pair in {shown(text)}, which is no character: repair the text",
        name,
        row,
        column,
    )


def is_encodable(text: str) -> bool:
    """Whether ``text`` can be encoded as UTF-8, that is, contains no half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _exact_type(cell: object) -> str:
    return {int: "a whole number", float: "a number with a point"}.get(type(cell), type_word(cell))


def _error(message: str, name: str, row: Row, column: str) -> DataError:
    place = place_of(row, name)
    return DataError(message, path=place.file, row=place.row, column=place_name(column))
