"""A pickle file as a table: unpacked, decoded, measured, matched."""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import Protocol

from leantune.data.content import Content, Packing, reading, unpacked_limit
from leantune.data.pickles.columns import PickleTable
from leantune.data.pickles.decode import decode
from leantune.data.pickles.measure import check_size
from leantune.data.pickles.opcodes import MAX_BYTES, refusal
from leantune.data.pickles.shapes.match import Mismatch
from leantune.data.pickles.shapes.tables import match_table
from leantune.errors import DataError, UnsafeFileError

_XZ_MEMORY_BYTES = 2**28


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def open_pickle(content: Content, split: str) -> PickleTable:
    """The table in a pickle; nothing that the pickle names is imported or called.

    Args:
        content: the file, plain or as one gz, bz2 or xz stream.
        split: the split of a pickled DatasetDict.

    Raises:
        UnsafeFileError: anything but a known table of known types.
        DataError: a pickle that is cut short, or a table whose columns cannot be read.
        UsageError: a DatasetDict without this split.
    """
    data = _whole(content)
    root = decode(data, content.name)
    check_size(root, content.name)
    try:
        return match_table(root, content.name, split)
    except Mismatch as mismatch:
        raise refusal(content.name, mismatch.place, mismatch.found) from mismatch


def _whole(content: Content) -> bytes:
    """All bytes of a pickle, unpacked."""
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
