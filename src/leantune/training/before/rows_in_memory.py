"""Rows that a Python program holds in memory, written as files into the run folder, where the run can be resumed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from leantune.config.record.run import RunRecord, read_record
from leantune.data.text.cells import list_of_texts
from leantune.errors import CheckpointError, DataError, UsageError
from leantune.system.atomic import write_bytes
from leantune.system.messages import shown

ROWS = "rows-"
"""Beginning of the names of these files."""
TEXT, LABEL = "text", "label"
PARTS = ("data", "test", "validation", "unlabelled")
"""Recipe keys that name rows."""


@contextlib.contextmanager
def rows_as_files(
    parts: Mapping[str, Any], folder: Path, recipe: Mapping[str, Any]
) -> Iterator[dict[str, str]]:
    """Yield ``parts`` as the recipe names them: paths as they are, rows in memory as files in the run folder.

    When the block ends, only the files that the run there was trained on remain. A `DataError` about such a file names
    the argument and the row of the caller instead.
    """
    was_there, files, own = folder.exists(), {}, _own_rows(folder)
    arguments: dict[str, str] = {}
    try:
        for name, rows in parts.items():
            if rows is None:
                continue
            if isinstance(rows, str | os.PathLike):
                files[name] = os.fspath(rows)
                continue
            content, suffix = _content_of(rows, name, recipe)
            # the name is a hash of the content, so no other file is replaced
            path = folder / f"{ROWS}{hashlib.sha256(content).hexdigest()[:12]}.{suffix}"
            if not path.exists():
                own.add(path)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, content)
            files[name] = str(path)
            arguments.setdefault(str(path), name)
        yield files
    except DataError as error:
        if str(error.path) not in arguments:
            raise
        raise _of_argument(error, arguments[str(error.path)]).with_traceback(error.__traceback__) from None
    finally:
        for path in own - _own_rows(folder):
            path.unlink(missing_ok=True)
        if not was_there:
            with contextlib.suppress(OSError):  # not empty: the run has begun
                folder.rmdir()


def columns_of(rows: Any) -> dict[str, str]:
    """Return the columns that texts and labels without column names are written to; none for other rows."""
    is_unnamed = isinstance(rows, tuple) or (isinstance(rows, list) and not _are_dicts(rows))
    return {"text_column": TEXT, "label_column": LABEL} if is_unnamed else {}


def _are_dicts(rows: Any) -> bool:
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], Mapping)


def _own_rows(folder: Path) -> set[Path]:
    """Return the files of rows in ``folder`` that the run there was trained on; none if its record cannot be read."""
    try:
        recipe = read_record(folder, RunRecord).recipe or {}
    except (CheckpointError, UsageError):
        return set()
    named = (Path(recipe[key]) for key in PARTS if recipe.get(key))
    return {path for path in named if path.parent == folder and path.name.startswith(ROWS)}


def _of_argument(error: DataError, name: str) -> DataError:
    """Return an error about a file of rows as one about the argument that the rows came from."""
    return DataError(
        error.message,
        path=name if error.row is None else f"{name}, row {error.row - 1} (counted from 0)",
        column=error.column,
        rows=[each - 1 for each in error.rows if isinstance(each, int)],
        num_more_rows=error.num_more_rows,
    )


def _content_of(rows: Any, name: str, recipe: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return rows as the content of a file, and the suffix of its name.

    Raises:
        UsageError: rows of an unknown kind.
        DataError: texts and labels of different number, or a missing column.
    """
    module = type(rows).__module__.partition(".")[0]
    if module == "datasets" and hasattr(rows, "column_names"):
        if isinstance(rows.column_names, dict):
            raise UsageError(
                f"{name}: a DatasetDict, expected one split of it: {name}={name}[{next(iter(rows))!r}]"
            )
        target = io.BytesIO()
        rows.select_columns(_columns(rows.column_names, name, recipe)).to_parquet(target)
        return target.getvalue(), "parquet"
    if module == "pandas" and hasattr(rows, "columns"):
        chosen = rows[_columns(list(rows.columns), name, recipe)]
        return chosen.to_parquet(index=False), "parquet"
    if isinstance(rows, Mapping):
        return _lines_of({column: rows[column] for column in _columns(list(rows), name, recipe)}, name)
    if _are_dicts(rows):
        return _lines_of_dicts(rows, name, recipe)
    if name == "unlabelled":
        return _lines_of({TEXT: rows}, name)
    if isinstance(rows, tuple) and len(rows) == 2:
        return _lines_of(dict(zip((TEXT, LABEL), rows, strict=True)), name)
    if isinstance(rows, list) and all(isinstance(row, tuple | list) and len(row) == 2 for row in rows):
        return _lines_of({TEXT: [row[0] for row in rows], LABEL: [row[1] for row in rows]}, name)
    raise UsageError(
        f"{name}: a {type(rows).__name__}, expected a path, a DataFrame, a datasets.Dataset, a tuple (texts, labels), "
        f"a list of pairs (text, label), a list of dicts, or a dict of lists"
    )


def _columns(found: Sequence[str], name: str, recipe: Mapping[str, Any]) -> list[str]:
    """Return the columns to read; the others may contain values that no file can hold."""
    named = [recipe.get(key) for key in ("text_column", "text_pair_column", "label_column")]
    wanted = [each for each in found if each in (*named, TEXT, LABEL, "target")]
    if not wanted:
        raise DataError(
            f"{name}: no column 'text' among {', '.join(map(str, found))}; name it with text_column="
        )
    return wanted


def _lines_of(columns: Mapping[str, Iterable[Any]], name: str) -> tuple[bytes, str]:
    """Return columns as JSON lines, and their suffix.

    Raises:
        DataError: columns of different lengths, or a value that JSON lacks.
    """
    cells = {
        column: list_of_texts(values, name) if column == TEXT else list(values)
        for column, values in columns.items()
    }
    lengths = {column: len(values) for column, values in cells.items()}
    if len(set(lengths.values())) > 1:
        found = " and ".join(f"{length} {column}s" for column, length in lengths.items())
        raise DataError(f"{name}: {found}, lengths must match")
    names = list(cells)
    return _as_lines([dict(zip(names, row, strict=True)) for row in zip(*cells.values(), strict=True)], name)


def _lines_of_dicts(rows: Sequence[Any], name: str, recipe: Mapping[str, Any]) -> tuple[bytes, str]:
    wanted = _columns(list(rows[0]), name, recipe)
    for i, row in enumerate(rows):
        lacking = [column for column in wanted if not isinstance(row, Mapping) or column not in row]
        if lacking:
            raise DataError(
                f"{name}, row {i} (counted from 0): {shown(row)}, expected a dict with {', '.join(wanted)}"
            )
    return _as_lines([{column: row[column] for column in wanted} for row in rows], name)


def _as_lines(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[bytes, str]:
    return "".join(_line(row, i, name) for i, row in enumerate(rows)).encode(), "jsonl"


def _line(row: Mapping[str, Any], i: int, name: str) -> str:
    try:
        return json.dumps({column: _plain(cell) for column, cell in row.items()}) + "\n"
    except TypeError:
        raise DataError(
            f"{name}, row {i} (counted from 0): {shown(row)} holds a value that is no text, number or list: "
            "expected a text, and a label that is a text, a whole number or a boolean"
        ) from None


def _plain(cell: Any) -> Any:
    """Return a cell of numpy, pandas or PyTorch as Python's type."""
    return cell.tolist() if hasattr(cell, "tolist") else cell
