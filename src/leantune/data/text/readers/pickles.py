"""Reads a pickle file as a table, decoded by `leantune.pickle_tables`."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from leantune.data.text.readers.content import Content, Packing, reading, unpacked_limit
from leantune.data.text.table import CellBatch
from leantune.errors import DataError, UnsafeFileError
from leantune.pickle_tables.columns import DecodedTable
from leantune.pickle_tables.opcodes import MAX_BYTES, refusal
from leantune.pickle_tables.read import read_pickle

_XZ_MEMORY_BYTES = 2**28


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class PickleTable:
    """A decoded table that is read in batches."""

    decoded: DecodedTable

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns, in the file's order."""
        return tuple(self.decoded.contents)

    @property
    def class_names(self) -> Mapping[str, tuple[str, ...]]:
        """Class names of each column whose numbers stand for classes."""
        return self.decoded.class_names

    def batches(self, wanted: Sequence[str], batch_rows: int) -> Iterator[CellBatch]:
        """Yield the wanted columns, at most ``batch_rows`` rows at a time."""
        contents = self.decoded.contents
        num_rows = min(map(len, contents.values()), default=0)
        for start in range(0, num_rows, batch_rows):
            stop = min(start + batch_rows, num_rows)
            cells = {name: contents[name].cells(start, stop) for name in wanted}
            yield CellBatch(range(start + 1, stop + 1), cells)

    def locate(self, index: int) -> int:
        """Return the 1-based row."""
        return index + 1


def open_pickle(content: Content, split: str) -> PickleTable:
    """Open the table in a pickle without importing or calling anything that the pickle names.

    Args:
        content: the file, plain or as one gz, bz2 or xz stream.
        split: the split of a pickled DatasetDict.

    Raises:
        UnsafeFileError: the pickle is not a known table of known types.
        DataError: the pickle is cut short, or the columns of the table cannot be read.
        UsageError: the DatasetDict does not have this split.
    """
    return PickleTable(read_pickle(_whole(content), content.name, split))


def _whole(content: Content) -> bytes:
    """Return all unpacked bytes of a pickle."""
    if content.stamp[0] > MAX_BYTES:
        raise _too_large(content, MAX_BYTES)
    with reading(content.name):
        data = content.path.read_bytes()
    return data if content.packing is None else _unpacked(content, content.packing, data)


def _unpacked(content: Content, packing: Packing, data: bytes) -> bytes:
    limit = min(MAX_BYTES, unpacked_limit(len(data)))
    decompressor = _decompressor(packing)
    try:
        unpacked = decompressor.decompress(data, limit + 1)
    except (OSError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"the {packing} data are damaged ({error}): make or download the file again", path=content.name
        ) from error
    if len(unpacked) > limit:
        raise _too_large(content, limit)
    if not decompressor.eof:
        raise DataError(
            f"the {packing} data are cut short: make or download the file again", path=content.name
        )
    if decompressor.unused_data:
        raise refusal(content.name, packing, "bytes after the end of the compressed data")
    return unpacked


def _decompressor(packing: Packing) -> _Decompressor:
    if packing == "gzip":
        return zlib.decompressobj(wbits=zlib.MAX_WBITS + 16)
    if packing == "bzip2":
        return bz2.BZ2Decompressor()
    return lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES)


def _too_large(content: Content, limit: int) -> UnsafeFileError:
    return refusal(content.name, "file", f"a pickle of more than {limit:,} bytes")
