"""Tokenizes texts once into a memory-mapped Arrow table, which is cached by content hash."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from leantune.data.label_column import Label
from leantune.data.text.read import ExampleSource
from leantune.data.tokens import cache as token_cache
from leantune.data.tokens.tokenization import Tokenizer
from leantune.errors import DataError, UnsafeFileError
from leantune.system.checksums import update_from
from leantune.system.trusted_files import open_trusted

FORMAT_VERSION = 4
"""Version in the cache key; increase it when the table's columns change."""

SCHEMA = pa.schema(
    [
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("second_start", pa.int32(), nullable=False),
        pa.field("full_length", pa.int32(), nullable=False),
        pa.field("is_blank", pa.bool_(), nullable=False),
    ]
)
DIGEST_BYTES = hashlib.sha256().digest_size
"""Size of the SHA-256 digest of key and file that follows the Arrow file in a cache entry."""


@dataclass(frozen=True)
class TokenTable:
    """A memory-mapped table of token rows.

    Only lengths and labels are kept in memory. The labels are read from the source, not from the cache.
    """

    batches: list[pa.RecordBatch] = field(repr=False)
    """Batches of the mapped file, which may have been removed from disk since."""
    source_name: str
    source_sha256: str
    """SHA-256 hex digest of the content that the rows were read from."""
    labels: list[Label] | None = field(repr=False, default=None)
    """One label text or tuple of texts per row; None if the rows were read without labels."""

    @cached_property
    def _first_rows(self) -> npt.NDArray[np.int64]:
        return np.cumsum([0] + [batch.num_rows for batch in self.batches])

    @cached_property
    def _token_views(self) -> list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]]:
        columns = [batch.column("input_ids") for batch in self.batches]
        return [
            (column.offsets.to_numpy(zero_copy_only=True), column.values.to_numpy(zero_copy_only=True))
            for column in columns
        ]

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """``(N,)`` number of tokens of each row after truncation."""
        return np.concatenate([np.diff(offsets) for offsets, _ in self._token_views])

    @cached_property
    def second_starts(self) -> npt.NDArray[np.int32]:
        """``(N,)`` position of the first token of the second text; the row's length if there is none."""
        return self._column("second_start")

    @cached_property
    def full_lengths(self) -> npt.NDArray[np.int32]:
        """``(N,)`` number of tokens of each row before truncation."""
        return self._column("full_length")

    @cached_property
    def is_blank(self) -> npt.NDArray[np.bool_]:
        """``(N,)`` whether the text of each row is empty or white space."""
        parts = [batch.column("is_blank").to_numpy(zero_copy_only=False) for batch in self.batches]
        return np.concatenate(parts)

    @property
    def label_texts(self) -> list[Label]:
        """The label texts, one entry per row.

        Raises:
            DataError: the rows were read without labels.
        """
        if self.labels is None:
            raise DataError("has no label column; labels are needed here", path=self.source_name)
        return self.labels

    def tokens(self, row: int) -> npt.NDArray[np.int32]:
        """Return the token ids of one row as a view of the mapped file."""
        batch = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        offsets, values = self._token_views[batch]
        within = row - int(self._first_rows[batch])
        return values[offsets[within] : offsets[within + 1]]

    def _column(self, name: str) -> npt.NDArray[np.int32]:
        return np.concatenate([batch.column(name).to_numpy() for batch in self.batches])


def tokenize(
    source: ExampleSource,
    tokenizer: Tokenizer,
    cache_dir: Path,
    *,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> TokenTable:
    """Return the token table of ``source`` from the cache, or make it in one pass over the source.

    Args:
        source: rows to read, with labels if it has any; the cache key contains its content, split and columns.
        tokenizer: the tokenizer, whose fingerprint is part of the cache key.
        cache_dir: the cache folder, kept within the limit of `token_cache`.
        on_rows: called with the number of rows done so far.
    """
    limit = token_cache.limit_bytes()
    source_sha256 = source.sha256()
    key = json.dumps(
        [
            FORMAT_VERSION,
            source_sha256,
            source.split,
            tokenizer.fingerprint,
            repr(source.columns),
        ]
    ).encode()
    path = cache_dir / f"{hashlib.sha256(key).hexdigest()[:32]}{token_cache.SUFFIX}"
    batches = _found(path, key, tokenizer)
    if batches is not None:
        found = TokenTable(batches, source.name, source_sha256)
        labels = source.labels(found.is_blank.tolist())
        if labels is None or len(labels) == len(found):
            return replace(found, labels=labels)
    with token_cache.new_entry(path) as temporary:
        labels = _write_table(source, tokenizer, temporary, on_rows)
        _seal(temporary, key)
        batches = _opened(
            temporary, key, tokenizer
        )  # opened before the rename, after which another process may remove it
    token_cache.shrink(cache_dir, limit, keep=path)
    return TokenTable(batches, source.name, source_sha256, labels)


def _found(path: Path, key: bytes, tokenizer: Tokenizer) -> list[pa.RecordBatch] | None:
    """Return the rows of an entry; None if it does not exist, other users can write it, or it is damaged."""
    try:
        batches = _opened(path, key, tokenizer)
    except (UnsafeFileError, _NotWhole):
        return None
    except OSError as error:
        if error.errno not in token_cache.NO_FOLDER:
            raise
        return None
    token_cache.mark_used(path)
    return batches


class _NotWhole(Exception):  # noqa: N818 - not an error: the table is made again
    """An entry is damaged, belongs to another key, or has ids that the tokenizer does not have."""


def _seal(path: Path, key: bytes) -> None:
    """Append the digest with which `_opened` checks that the entry is complete."""
    digest = hashlib.sha256(key)
    update_from(digest, path)
    with path.open("ab") as file:
        file.write(digest.digest())


def _opened(path: Path, key: bytes, tokenizer: Tokenizer) -> list[pa.RecordBatch]:
    """Open the rows of an entry, memory-mapped.

    Raises:
        _NotWhole: the entry does not match its digest, schema or tokenizer.
        UnsafeFileError: other users can write the entry.
        OSError: the entry does not exist or cannot be opened.
    """
    descriptor = open_trusted(path)
    try:
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # empty
        raise _NotWhole from error
    finally:
        os.close(descriptor)
    content = memoryview(mapped)
    digest = hashlib.sha256(key)
    digest.update(content[:-DIGEST_BYTES])
    if content[-DIGEST_BYTES:] != digest.digest():
        raise _NotWhole
    reader = pa.ipc.open_file(pa.py_buffer(content[:-DIGEST_BYTES]))
    batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    if not reader.schema.equals(SCHEMA) or not all(_is_sound(batch, tokenizer) for batch in batches):
        raise _NotWhole
    return batches


def _is_sound(batch: pa.RecordBatch, tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer has every id, and every row has at least one token."""
    ids = batch.column("input_ids")
    values = ids.flatten().to_numpy(zero_copy_only=True)
    return (
        bool((np.diff(ids.offsets.to_numpy()) > 0).all())
        and int(values.min(initial=0)) >= 0
        and int(values.max(initial=0)) < tokenizer.num_ids
    )


def _write_table(
    source: ExampleSource, tokenizer: Tokenizer, path: Path, on_rows: Callable[[int], None]
) -> list[Label] | None:
    """Write the tokens of all rows and return their labels."""
    rows = 0
    labels: list[Label] | None = None if source.columns.label is None else []
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch in source.batches():
            encoded = tokenizer.encode(batch.texts, batch.pairs)
            writer.write_batch(
                pa.record_batch(
                    [
                        _ragged(encoded.input_ids),
                        pa.array(encoded.second_starts),
                        pa.array(encoded.full_lengths),
                        pa.array(batch.is_blank),
                    ],
                    schema=SCHEMA,
                )
            )
            if labels is not None:
                labels += batch.labels or []
            rows += len(batch.texts)
            on_rows(rows)
    if rows == 0:
        raise DataError("has no rows", path=source.name)
    return labels


def _ragged(input_ids: list[npt.NDArray[np.int32]]) -> pa.ListArray:
    lengths = np.fromiter((len(tokens) for tokens in input_ids), dtype=np.int64, count=len(input_ids))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(input_ids)))
