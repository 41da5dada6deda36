"""Reads Parquet and Arrow IPC files.

Every batch is fully validated before its cells are used, because Arrow itself trusts the offsets in a file. Only the
wanted columns are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from leantune.data.text.readers.content import Content
from leantune.data.text.readers.features import class_names
from leantune.data.text.readers.sniff import Kind
from leantune.data.text.table import CellBatch, check_unique
from leantune.errors import DataError, UnsafeFileError
from leantune.system.messages import Opaque, one_line, shown

BatchOpener = Callable[[Sequence[str], int], Iterator[pa.RecordBatch]]
"""Takes the wanted columns and the rows per batch and yields batches, which may be larger."""


@dataclass(frozen=True, slots=True)
class ArrowTable:
    """A table that pyarrow reads batch by batch."""

    name: str
    columns: tuple[str, ...]
    class_names: Mapping[str, tuple[str, ...]]
    open_batches: BatchOpener
    first_row: int = 1
    """1-based number of the table's first row in the file."""

    def batches(self, wanted: Sequence[str], batch_rows: int) -> Iterator[CellBatch]:
        """Yield the wanted columns, at most ``batch_rows`` rows at a time.

        Raises:
            DataError: the file is damaged.
        """
        row = self.first_row
        with arrow_errors(self.name):
            for large in self.open_batches(wanted, batch_rows):
                large.validate(full=True)
                for start in range(0, large.num_rows, batch_rows):
                    batch = large.slice(start, batch_rows)
                    cells = {name: _cells_of(batch.column(name)) for name in wanted}
                    yield CellBatch(range(row, row + batch.num_rows), cells)
                    row += batch.num_rows

    def locate(self, index: int) -> int:
        """Return the 1-based row."""
        return index + self.first_row


def open_arrow(content: Content, kind: Kind) -> ArrowTable:
    """Open a Parquet file, an Arrow IPC file or an Arrow IPC stream.

    Raises:
        DataError: the file is damaged, compressed as a whole, or has two columns of the same name.
        UnsafeFileError: the type of a column would have to be unpickled.
    """
    if content.packing is not None:
        raise DataError(
            f"a {kind} file compressed with {content.packing}, expected an uncompressed one: unpack it first",
            path=content.name,
        )
    with arrow_errors(content.name):
        schema = _SCHEMAS[kind](content.path)
    open_batches = partial(_READERS[kind], content.path)
    return table_of(content.name, schema, open_batches)


def open_row_group(
    open_file: Callable[[], BinaryIO], name: str, *, row_group: int, first_row: int
) -> ArrowTable:
    """Open one row group of a Parquet file.

    Args:
        open_file: opens the file at its beginning; the file need not be on this machine.
        name: the file, for messages.
        row_group: 0-based number of the row group.
        first_row: 0-based number of the row group's first row in the file.

    Raises:
        DataError: the file is damaged, has no such row group, or has two columns of the same name.
        UnsafeFileError: the type of a column would have to be unpickled.
    """
    with arrow_errors(name), open_file() as file, pq.ParquetFile(file) as parquet:
        schema, about = parquet.schema_arrow, parquet.metadata
        if row_group >= about.num_row_groups:
            raise DataError(f"{about.num_row_groups} row groups, expected more than {row_group}", path=name)
    table = table_of(name, schema, partial(_row_group_batches, open_file, row_group))
    return replace(table, first_row=first_row + 1)


def _row_group_batches(
    open_file: Callable[[], BinaryIO], row_group: int, wanted: Sequence[str], batch_rows: int
) -> Iterator[pa.RecordBatch]:
    with open_file() as file, pq.ParquetFile(file) as parquet:
        yield from parquet.iter_batches(batch_rows, row_groups=[row_group], columns=list(wanted))


def table_of(name: str, schema: pa.Schema, open_batches: BatchOpener) -> ArrowTable:
    """Make a table after checking that the columns of its schema are safe and have different names.

    Raises:
        DataError: two columns have the same name, or class names cannot be read.
        UnsafeFileError: the type of a column would have to be unpickled.
    """
    with arrow_errors(name):
        for field in schema:
            _refuse_unpickling(field, name)
        check_unique(schema.names, name)
        return ArrowTable(name, tuple(schema.names), class_names(schema, name), open_batches)


def _cells_of(column: pa.Array) -> list[object]:
    """Convert cells to Python values, or to `Opaque` ones if they can be neither text nor label.

    Opaque are objects, lists of anything but texts and whole numbers, and dates, which may be outside Python's range or
    in an unknown time zone.
    """
    kind = column.type
    while pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind) or hasattr(kind, "storage_type"):
        kind = kind.storage_type if hasattr(kind, "storage_type") else kind.value_type
    if pa.types.is_temporal(kind):
        opaque = Opaque(f"a date or time ({str(kind)[:60]})")
    elif pa.types.is_struct(kind) or pa.types.is_map(kind):
        opaque = Opaque("an object")
    elif pa.types.is_nested(kind) and not _may_hold_labels(kind):
        opaque = Opaque("a list")
    else:
        cells: list[object] = column.to_pylist()
        return cells
    return [opaque if is_valid else None for is_valid in column.is_valid().to_pylist()]


def _may_hold_labels(kind: pa.DataType) -> bool:
    """Whether a list type contains texts or whole numbers."""
    inner = getattr(kind, "value_type", None)
    if inner is None:  # a union
        return False
    if pa.types.is_dictionary(inner):
        inner = inner.value_type
    return bool(
        pa.types.is_string(inner)
        or pa.types.is_large_string(inner)
        or pa.types.is_string_view(inner)
        or pa.types.is_integer(inner)
        or pa.types.is_null(inner)
    )


@contextmanager
def arrow_errors(name: str) -> Iterator[None]:
    """Turn pyarrow's errors for a file into DataError."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the file is damaged or cut short ({one_line(error)}): make or download it again", path=name
        ) from error


def _parquet_batches(path: Path, wanted: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as parquet:
        yield from parquet.iter_batches(batch_size=batch_rows, columns=list(wanted))


def _file_batches(path: Path, wanted: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path)) as source:
        reader = pa.ipc.open_file(source, options=_only(wanted, _file_schema(path)))
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


def _stream_batches(path: Path, wanted: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path)) as source:
        reader = pa.ipc.open_stream(source, options=_only(wanted, _stream_schema(path)))
        end = source.tell()
        for batch in reader:
            end = source.tell()
            yield batch
        if source.tell() == end:  # otherwise the reader has found the end mark
            raise pa.ArrowInvalid("an Arrow stream without its end mark: rows may be missing")


def _only(wanted: Sequence[str], schema: pa.Schema) -> pa.ipc.IpcReadOptions:
    return pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in wanted])


def _file_schema(path: Path) -> pa.Schema:
    with pa.OSFile(str(path)) as source:
        return pa.ipc.open_file(source).schema


def _stream_schema(path: Path) -> pa.Schema:
    with pa.OSFile(str(path)) as source:
        return pa.ipc.open_stream(source).schema


_SCHEMAS: dict[Kind, Callable[[Path], pa.Schema]] = {
    "parquet": pq.read_schema,
    "arrow file": _file_schema,
    "arrow stream": _stream_schema,
}
_READERS: dict[Kind, Callable[[Path, Sequence[str], int], Iterator[pa.RecordBatch]]] = {
    "parquet": _parquet_batches,
    "arrow file": _file_batches,
    "arrow stream": _stream_batches,
}


def _refuse_unpickling(field: pa.Field, name: str) -> None:
    """Refuse extension types whose metadata is a pickle (CVE-2023-47248), at any depth."""
    metadata = field.metadata or {}
    extension = metadata.get(b"ARROW:extension:name", b"").decode("utf-8", "replace")
    if isinstance(field.type, pa.BaseExtensionType):
        extension = field.type.extension_name
    if extension == "arrow.py_extension_type":
        raise UnsafeFileError(
            f"{name}: the column {shown(field.name)} has the type arrow.py_extension_type, which only "
            "unpickling could read: refused; write the file again without that column"
        )
    for index in range(field.type.num_fields):
        _refuse_unpickling(field.type.field(index), name)
