"""The first sheet of an .xlsx file, through openpyxl: values as they were saved, row by row.

A row without values is no row. An empty cell is an empty text, as it is in the CSV file of the same sheet.
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
"""What a sheet can have; a damaged one claims more."""
MAX_COLUMNS = 1000
"""Every row is as wide as the header, however few cells the file has for it."""

_HEADER_ROWS = 100
_ROWS_AT_ONCE = 512
_ERROR, _TEXT = "e", "s"
"""The types of cells that openpyxl gives as texts."""


@dataclass(frozen=True, slots=True)
class WorkbookTable(NamesInRows):
    """The first sheet of a workbook."""

    content: Content
    sheet: str
    num_sheets: int
    columns: tuple[str, ...]

    def batches(self, wanted: Sequence[str], batch_rows: int) -> Iterator[CellBatch]:
        """The wanted columns, at most ``batch_rows`` rows at a time.

        Raises:
            DataError: the file is damaged.
        """
        places = {name: self.columns.index(name) for name in wanted}
        rows = self._rows()
        while batch := list(islice(rows, batch_rows)):
            cells = {name: [_value(row[place]) for _, row in batch] for name, place in places.items()}
            yield CellBatch([row for row, _ in batch], cells)

    def locate(self, index: int) -> Place:
        """The sheet and its row."""
        return next(islice(self._rows(), index, None))[0]

    def _rows(self) -> Iterator[tuple[Place, Sequence[Any]]]:
        """The rows under the header that hold anything."""
        name = sheet_name(self.content, self.sheet)
        with _opened(self.content) as workbook:
            sheet = _first_sheet(workbook, self.content)
            rows = _filled_rows(sheet.iter_rows(max_row=MAX_ROWS, max_col=len(self.columns)), self.content)
            next(rows, None)
            for row, cells in rows:
                yield Place(name, row), cells


def open_workbook(content: Content) -> WorkbookTable:
    """Read the header of the first sheet.

    Raises:
        DataError: the file is damaged, has no sheet of cells, or has two columns of one name.
        UnsafeFileError: it could make the parser work without end.
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


def sheet_name(content: Content, sheet: str) -> str:
    """How messages call a sheet."""
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
    sheet.reset_dimensions()  # which are what the file claims
    return sheet


def _filled_rows(rows: Iterator[Sequence[Any]], content: Content) -> Iterator[tuple[int, Sequence[Any]]]:
    """The rows in which a cell has a value, each with its number."""
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
        return Opaque(f"an error of a formula ({value})")
    if cell.data_type == _TEXT:
        return unescape(str(value))  # _x000D_: a character that XML lacks
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
    """Turn whatever openpyxl raises over a damaged workbook into a DataError.

    It checks little of what it reads: ``KeyError`` for a member that is not there, ``IndexError`` for a text.
    What it warns of are the looks of a sheet, which nobody asked for.
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
