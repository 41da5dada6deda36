"""The bytes of a file or of standard input, which is copied to a temporary file; unpacked while they are read.

A ``Content`` can be opened any number of times, so that readers can make several passes.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import shutil
import stat
import sys
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, cast

from leantune.errors import DataError, ResourceError
from leantune.system.checksums import update_from
from leantune.system.environment import mebibytes
from leantune.system.messages import place_name

Packing = Literal["gzip", "bzip2", "xz"]

PACKING_MAGIC: dict[bytes, Packing] = {
    b"\x1f\x8b\x08": "gzip",
    **{b"BZh%d1AY&SY" % level: "bzip2" for level in range(1, 10)},
    b"\xfd7zXZ\x00": "xz",
}
PACKING_SUFFIXES = (".gz", ".bz2", ".xz")

UNPACKED_VARIABLE = "LEANTUNE_MAX_UNPACKED_MIB"
"""Environment variable that limits the unpacked size of a compressed file."""
UNPACKED_BYTES = 2**30
UNPACKED_RATIO = 100
"""Default limit: `UNPACKED_BYTES`, or this many times the size of the compressed file if that is larger."""

HEAD_BYTES = 4096

_OPENERS: dict[Packing, Callable[[Path], object]] = {
    "gzip": gzip.open,
    "bzip2": bz2.open,
    "xz": lzma.open,
}


def unpacked_limit(packed_bytes: int) -> int:
    """Return the largest number of bytes that a compressed file of this size may unpack to.

    Raises:
        UsageError: ``$LEANTUNE_MAX_UNPACKED_MIB`` is not a whole number.
    """
    given = mebibytes(UNPACKED_VARIABLE)
    return max(UNPACKED_BYTES, UNPACKED_RATIO * packed_bytes) if given is None else given


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of one file.

    Args:
        name: the file as the user named it, for messages.
        path: the file on disk.
        stamp: size in bytes and modification time in ns when the content was opened.
        packing: the compression format, or None.
        owner: keeps a temporary file on disk for as long as this content is in use.
    """

    name: str
    path: Path
    stamp: tuple[int, int]
    packing: Packing | None
    owner: object = field(default=None, repr=False, compare=False)

    @property
    def suffix(self) -> str:
        """The lower-case suffix without the suffix of the compression: ``.csv`` for ``A.CSV.gz``."""
        path = Path(self.path.name.lower())
        return Path(path.stem).suffix if path.suffix in PACKING_SUFFIXES else path.suffix

    def open(self) -> BinaryIO:
        """Open the unpacked bytes.

        Raises:
            DataError: the file cannot be read. While reading, DataError is also raised if the compressed data are
                damaged or the unpacked size exceeds the limit.
        """
        with reading(self.name):
            if self.packing is None:
                return open(self.path, "rb")
            return cast(BinaryIO, io.BufferedReader(_Unpacked(self), 2**16))

    def head(self) -> bytes:
        """Return the first ``HEAD_BYTES`` unpacked bytes."""
        with self.open() as stream, reading(self.name):
            return stream.read(HEAD_BYTES)

    def last_byte(self) -> bytes | None:
        """Return the last byte of an uncompressed file, or None for a compressed one."""
        if self.packing is not None:
            return None
        with self.open() as stream, reading(self.name):
            stream.seek(-1, os.SEEK_END)
            return stream.read()

    def check_unpacked(self) -> None:
        """Unpack a compressed file once to check its size, which takes a hundredth of the time of parsing its rows.

        Raises:
            DataError: the unpacked size exceeds the limit, or the data are damaged.
        """
        if self.packing is not None:
            with self.open() as stream:
                while stream.read(2**20):
                    pass

    def sha256(self) -> str:
        """Return the SHA-256 hex digest of the file as it is on disk."""
        digest = hashlib.sha256()
        self.update_hash(digest)
        return digest.hexdigest()

    def update_hash(self, digest: hashlib._Hash) -> None:
        """Update a hash with the bytes of the file as they are on disk."""
        with reading(self.name):
            update_from(digest, self.path)

    def check_unchanged(self) -> None:
        """Raise DataError if the file changed since it was opened."""
        with reading(self.name):
            now = _stamp(os.stat(self.path))
        if now != self.stamp:
            raise DataError(
                "the file changed while it was read: its rows cannot be trusted; "
                "start again when no process writes to it",
                path=self.name,
            )


def open_content(location: str, *, may_be_empty: bool = False) -> Content:
    """Open a regular file, or standard input if ``location`` is ``-``.

    Args:
        location: a path, or ``-``.
        may_be_empty: whether an empty file is accepted.

    Raises:
        DataError: the file is not a regular file, cannot be read, or is empty.
    """
    if location == "-":
        if sys.stdin is None:
            raise DataError("standard input is closed: pipe the rows in, or give a file")
        return _spool(sys.stdin.buffer)
    name = place_name(location)
    try:
        info = os.stat(location)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {_reason(error)}", path=name) from error
    if not stat.S_ISREG(info.st_mode):
        raise DataError(
            f"{_kind_of_node(info.st_mode)}, expected a file: "
            "pipe the data in and write - as its name, or save it to a file",
            path=name,
        )
    if info.st_size == 0 and not may_be_empty:
        raise _empty(name)
    return _content(name, Path(location), info)


def listing_sha256(contents: Sequence[Content]) -> str:
    """Return the SHA-256 hex digest of several files and their names, in this order.

    It is the digest of the lines that ``sha256sum`` prints for the files in their common folder.
    """
    paths = [os.path.abspath(content.path) for content in contents]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    digest = hashlib.sha256()
    for content, path in zip(contents, paths, strict=True):
        name = os.path.relpath(path, folder)
        digest.update(f"{content.sha256()}  {name}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn OSError from opening or reading a file into DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot be read: {_reason(error)}", path=name) from error


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a compressed file, up to a limit."""

    def __init__(self, content: Content) -> None:
        assert content.packing is not None
        self._stream = cast(BinaryIO, _OPENERS[content.packing](content.path))
        self._content = content
        self._limit = unpacked_limit(content.stamp[0])
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        try:
            block = self._stream.read(len(buffer))
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise DataError(
                f"the {self._content.packing} data are damaged or cut short ({error}): "
                "make or download the file again",
                path=self._content.name,
            ) from error
        self._count += len(block)
        if self._count > self._limit:
            raise DataError(
                f"the file unpacks to more than {self._limit:,} bytes: unpack it yourself if that is what you expect, "
                f"or set {UNPACKED_VARIABLE}",
                path=self._content.name,
            )
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _TemporaryPath:
    """A temporary file that is removed with this object, at the latest when Python exits."""

    def __init__(self, path: Path) -> None:
        weakref.finalize(self, path.unlink, missing_ok=True)


def _spool(stream: BinaryIO) -> Content:
    descriptor, spelled = tempfile.mkstemp(prefix="leantune-stdin-")
    path = Path(spelled)
    owner = _TemporaryPath(path)
    with os.fdopen(descriptor, "wb") as spooled:
        try:
            shutil.copyfileobj(stream, spooled, 2**20)
            spooled.flush()
        except OSError as error:
            raise ResourceError(
                f"standard input could not be stored in {path.parent}: {_reason(error)}; "
                "free some space there or set TMPDIR"
            ) from error
    info = os.stat(path)
    if info.st_size == 0:
        raise _empty("standard input")
    return _content("standard input", path, info, owner)


def _empty(name: str) -> DataError:
    return DataError("the file is empty: expected a header and rows", path=name)


def _content(name: str, path: Path, info: os.stat_result, owner: object = None) -> Content:
    with reading(name), open(path, "rb") as stream:
        magic = stream.read(10)
    packing = next((kind for start, kind in PACKING_MAGIC.items() if magic.startswith(start)), None)
    return Content(name, path, _stamp(info), packing, owner)


def _stamp(info: os.stat_result) -> tuple[int, int]:
    return info.st_size, info.st_mtime_ns


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _kind_of_node(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"
