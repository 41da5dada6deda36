"""Reads the saved values of the first sheet of an .xlsx file row by row with openpyxl.

Rows without values are skipped. An empty cell is an empty text, as in a CSV export of the sheet.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from leantune.data.text.readers.content import Content
from leantune.data.text.readers.workbook_file import check_workbook
from leantune.data.text.table import CellBatch, NamesInRows, Place, check_unique
from leantune.errors import DataError, LeantuneError, UsageError
from leantune.system.memory import is_out_of_memory
from leantune.system.messages import Opaque, one_line, place_name, type_word

if TYPE_CHECKING:
    from openpyxl.workbook import Workbook

MAX_ROWS = 2**20
"""Largest number of rows in a sheet; a damaged sheet may claim more."""
MAX_COLUMNS = 1000
"""Largest number of columns; every row is filled up to the width of the header, so a huge header is refused."""

MAX_SHEETS = 20
"""Largest number of sheets whose header is read."""
_HEADER_ROWS = 100
_ROWS_AT_ONCE = 512
_ERROR, _TEXT = "e", "s"
"""The cell types whose values openpyxl returns as texts."""


@dataclass(frozen=True, slots=True)
class WorkbookTable(NamesInRows):
    """The first sheet of a workbook."""

    content: Content
    sheet: str
    num_sheets: int
    columns: tuple[str, ...]

    def batches(self, wanted: Sequence[str], batch_rows: int) -> Iterator[CellBatch]:
        """Yield the wanted columns, at most ``batch_rows`` rows at a time.

        Raises:
            DataError: the file is damaged.
        """
        places = {name: self.columns.index(name) for name in wanted}
        rows = self._rows()
        while batch := list(islice(rows, batch_rows)):
            cells = {name: [_value(row[place]) for _, row in batch] for name, place in places.items()}
            yield CellBatch([row for row, _ in batch], cells)

    def locate(self, index: int) -> Place:
        """Return the sheet and the row in it."""
        return next(islice(self._rows(), index, None))[0]

    def other_sheets(self) -> dict[str, tuple[str, ...]]:
        """Read the columns of the sheets after the first one, by name."""
        with _opened(self.content) as workbook:
            others = workbook.worksheets[1:MAX_SHEETS]
            return {sheet.title: _header_of(sheet, self.content) for sheet in others}

    def _rows(self) -> Iterator[tuple[Place, Sequence[Any]]]:
        """Yield the rows below the header that have a value."""
        name = sheet_name(self.content, self.sheet)
        with _opened(self.content) as workbook:
            sheet = _first_sheet(workbook, self.content)
            rows = _filled_rows(sheet.iter_rows(max_row=MAX_ROWS, max_col=len(self.columns)), self.content)
            next(rows, None)
            for row, cells in rows:
                yield Place(name, row), cells


def open_workbook(content: Content) -> WorkbookTable:
    """Open a workbook and read the header of its first sheet.

    Raises:
        DataError: the file is damaged, has no sheet of cells, or has two columns of the same name.
        UnsafeFileError: the file could make the parser run without end.
        UsageError: openpyxl is not installed.
    """
    check_workbook(content)
    with _opened(content) as workbook:
        sheet, num_sheets = _first_sheet(workbook, content), len(workbook.worksheets)
        rows = _filled_rows(sheet.iter_rows(max_row=_HEADER_ROWS), content)
        row, cells = next(rows, (1, ()))
    name = sheet_name(content, sheet.title)
    header = [_value(cell) for cell in cells]
    while header and header[-1] == "":
        header.pop()
    if not 0 < len(header) <= MAX_COLUMNS:
        raise DataError(
            f"{len(header):,} columns, expected a header of 1 to {MAX_COLUMNS:,} and rows", path=name
        )
    columns = [_column_name(value, name, row) for value in header]
    check_unique(columns, name, row)
    return WorkbookTable(content, sheet.title, num_sheets, tuple(columns))


def _header_of(sheet: Any, content: Content) -> tuple[str, ...]:
    """Return the texts in the first row of a sheet that has values."""
    sheet.reset_dimensions()
    rows = _filled_rows(sheet.iter_rows(max_row=_HEADER_ROWS, max_col=MAX_COLUMNS), content)
    _, cells = next(rows, (1, ()))
    return tuple(value for value in map(_value, cells) if isinstance(value, str) and value)


def sheet_name(content: Content, sheet: str) -> str:
    """Return the name of a sheet in messages."""
    return f"{content.name} (sheet {place_name(sheet[:60])})"


def _column_name(value: object, name: str, row: int) -> str:
    if type(value) not in (str, int):
        found = f"{type_word(value)} in the header, expected the name of a column"
        raise DataError(f"{found}: write it as a text", path=name, row=row)
    return str(value)


def _first_sheet(workbook: Workbook, content: Content) -> Any:
    sheets = workbook.worksheets
    if not sheets:
        raise DataError("no sheet of cells: expected a header and rows", path=content.name)
    sheet: Any = sheets[0]
    sheet.reset_dimensions()  # the file may claim wrong dimensions
    return sheet


def _filled_rows(rows: Iterator[Sequence[Any]], content: Content) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield the rows in which a cell has a value, each with its number."""
    numbered = enumerate(rows, start=1)
    while batch := _next_rows(numbered, content):
        yield from (each for each in batch if any(cell.value not in (None, "") for cell in each[1]))


def _next_rows(numbered: Iterator[tuple[int, Any]], content: Content) -> list[tuple[int, Any]]:
    with _explained(content):
        return list(islice(numbered, _ROWS_AT_ONCE))


def _value(cell: Any) -> object:
    from openpyxl.utils.escape import unescape

    value = cell.value
    if value is None:
        return ""
    if cell.data_type == _ERROR:
        return Opaque(f"a formula error ({value})")
    if cell.data_type == _TEXT:
        return unescape(str(value))  # escapes such as _x000D_ stand for characters that XML cannot contain
    return value if type(value) in (bool, int, float) else Opaque("a date or time")


@contextmanager
def _opened(content: Content) -> Iterator[Workbook]:
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise UsageError(
            f"{content.name}: reading .xlsx needs openpyxl ({one_line(error)}); install it with: "
            "pip install 'leantune[xlsx]', or save the sheet as CSV UTF-8"
        ) from error
    with content.open() as stream:
        with _explained(content):
            workbook = load_workbook(stream, read_only=True, data_only=True, keep_links=False)
        try:
            yield workbook
        finally:
            workbook.close()


@contextmanager
def _explained(content: Content) -> Iterator[None]:
    """Turn any error that openpyxl raises for a damaged workbook into DataError.

    openpyxl checks little of what it reads: it raises ``KeyError`` for a missing member and ``IndexError`` for a
    missing text. Its warnings concern the formatting of a sheet and are hidden.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except LeantuneError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise DataError(
            f"the workbook is damaged ({type(error).__name__}: {one_line(error)}): save it again from a spreadsheet "
            "program, or as CSV UTF-8",
            path=content.name,
        ) from error
