"""The parts of a large prediction: a row group of a Parquet file, or a whole file of another format."""

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
"""Files whose row groups are looked up at a time: most of it is waiting for a storage."""


@dataclass(frozen=True, slots=True)
class Part:
    """What becomes one output file."""

    number: int
    """From 0, in the order of files and rows."""
    file: StoredFile
    row_group: int | None
    """None: the whole file."""
    first_row: int
    """0-based number of its first row in the file."""
    rows: int | None
    """None: they are counted when they are read."""


def find_parts(files: Sequence[StoredFile]) -> list[Part]:
    """All parts of the files; an empty row group is none.

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
    """Rows of each row group; None: the file is of another format."""
    if file.bytes == 0:
        raise DataError("the file is empty: expected a header and rows", path=file.url)
    if head_of(file.url) != PARQUET:
        return None
    with arrow_errors(file.url), open_for_reading(file.url) as stream, pq.ParquetFile(stream) as parquet:
        about = parquet.metadata
        return [about.row_group(i).num_rows for i in range(about.num_row_groups)]


@contextmanager
def opened(part: Part, columns: Columns) -> Iterator[ExampleSource]:
    """The rows of a part, for as long as the block runs.

    Raises:
        DataError: a damaged file, a missing column, or a file that is not as it was when it was listed.
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
            f"the file changed after the job began ({file.bytes:,} bytes, now {now.bytes:,}): "
            "give the job another output folder, and start it when nothing writes to its files",
            path=file.url,
        )


def update_from_rows(digest: hashlib._Hash, batch: ExampleBatch) -> None:
    """Feed the ids and the texts of some rows to a hash, each with its length before it."""
    for values in zip(
        batch.ids, batch.texts, *([batch.pairs] if batch.pairs is not None else []), strict=True
    ):
        for value in values:
            encoded = value.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
