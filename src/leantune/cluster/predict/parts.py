"""The parts of a bulk prediction: row groups of Parquet files, or whole files of other formats."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pyarrow.parquet as pq

from leantune.cluster.storage import StoredFile, head_of, local_copy, look_again, open_for_reading
from leantune.data.text.columns import Columns
from leantune.data.text.read import ExampleBatch, ExampleSource, open_row_group_texts, open_texts
from leantune.data.text.readers.arrow import arrow_errors
from leantune.errors import DataError

PARQUET = b"PAR1"
LISTING_THREADS = 16
"""Number of files whose row groups are listed concurrently; most of the time is spent waiting for the storage."""


@dataclass(frozen=True, slots=True)
class Part:
    """Input rows that become one output file."""

    number: int
    """Number of the part from 0, in the order of files and rows."""
    file: StoredFile
    row_group: int | None
    """Row group in the file; None for the whole file."""
    first_row: int
    """Number of the first row in the file, from 0."""
    rows: int | None
    """Number of rows; None if they are counted while reading."""


def find_parts(files: Sequence[StoredFile]) -> list[Part]:
    """Return all parts of the files, without empty row groups.

    Raises:
        DataError: if a Parquet file is damaged.
        UsageError: if a storage cannot be reached.
    """
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        found = list(pool.map(_row_groups, files))
    parts: list[Part] = []
    for file, sizes in zip(files, found, strict=True):
        if sizes is None:
            parts.append(Part(len(parts), file, None, 0, None))
            continue
        first_row = 0
        for row_group, rows in enumerate(sizes):
            if rows:
                parts.append(Part(len(parts), file, row_group, first_row, rows))
            first_row += rows
    return parts


def _row_groups(file: StoredFile) -> list[int] | None:
    """Return the number of rows of each row group, or None if the file is not a Parquet file."""
    if file.bytes == 0:
        raise DataError("the file is empty, expected a header and rows", path=file.url)
    if head_of(file.url) != PARQUET:
        return None
    with arrow_errors(file.url), open_for_reading(file.url) as stream, pq.ParquetFile(stream) as parquet:
        about = parquet.metadata
        return [about.row_group(i).num_rows for i in range(about.num_row_groups)]


@contextmanager
def opened(part: Part, columns: Columns) -> Iterator[ExampleSource]:
    """Open the rows of a part while the block runs.

    Raises:
        DataError: if the file is damaged, lacks a column, or has changed since it was listed.
        UsageError: if the storage cannot be reached.
    """
    _check_same(part.file)
    if part.row_group is None:
        with local_copy(part.file) as path:
            yield open_texts(path, part.file.url, columns)
    else:
        yield open_row_group_texts(
            partial(open_for_reading, part.file.url),
            part.file.url,
            columns,
            row_group=part.row_group,
            first_row=part.first_row,
        )
    _check_same(part.file)


def _check_same(file: StoredFile) -> None:
    now = look_again(file)
    if (now.bytes, now.stamp) != (file.bytes, file.stamp):
        raise DataError(
            f"the file changed after the job started ({file.bytes:,} bytes, now {now.bytes:,}): start the job again "
            "with another output folder when nothing writes to its input files",
            path=file.url,
        )


def update_from_rows(digest: hashlib._Hash, batch: ExampleBatch) -> None:
    """Update a hash with the ids and texts of some rows, each preceded by its length."""
    for values in zip(
        batch.ids, batch.texts, *([batch.pairs] if batch.pairs is not None else []), strict=True
    ):
        for value in values:
            encoded = value.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
