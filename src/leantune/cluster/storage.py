"""Local and remote files through fsspec: a path, or an address such as ``s3://bucket/rows/*.parquet``.

All writes are atomic: a file appears under its name when it is complete.
"""

from __future__ import annotations

import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from leantune.errors import LeantuneError, MissingFileError, ResourceError, UsageError
from leantune.system.atomic import TEMPORARY_PREFIX, atomic_file, disk_failure
from leantune.system.messages import one_line

EXTRAS = {
    "s3": "'leantune[s3]'",
    "s3a": "'leantune[s3]'",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}
"""Package to install for each protocol."""
WHOLE_OBJECTS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf")
"""Protocols of stores with atomic writes of objects."""
STAMPS = ("ETag", "etag", "md5Hash", "generation", "sha256", "LastModified", "last_modified", "mtime")
"""Keys in fsspec's file information that change with the content, the most reliable first."""
HEAD_BYTES = 4


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file at the time of listing."""

    url: str
    bytes: int
    stamp: str
    """Value that changes with the content: a checksum if the storage has one, else the modification time."""


def is_remote(location: str) -> bool:
    """Return whether a location is an address rather than a path."""
    return "://" in location


def find_files(location: str) -> list[StoredFile]:
    """Return the files of a location (a file, a pattern or a folder), sorted by name.

    In a folder, files whose names begin with ``_`` or a dot are skipped.

    Raises:
        MissingFileError: if there are no files.
        UsageError: if the storage cannot be reached, denies access, or needs a library that is not installed.
    """
    with explained(location):
        fs, path = fsspec.core.url_to_fs(location)
        if any(character in path for character in "*?["):
            found = {
                name: info for name, info in fs.glob(path, detail=True).items() if info["type"] == "file"
            }
        elif fs.isdir(path):
            listed = {info["name"]: info for info in fs.ls(path, detail=True) if info["type"] == "file"}
            found = {name: info for name, info in listed.items() if posixpath.basename(name)[:1] not in "_."}
        else:
            found = {path: fs.info(path)}
    if not found:
        raise MissingFileError(f"{location}: no files found: check the address and the pattern")
    return [_stored(fs, name, found[name]) for name in sorted(found)]


def look_again(file: StoredFile) -> StoredFile:
    """Return the current state of a file.

    Raises:
        MissingFileError: if the file no longer exists.
        UsageError: see `find_files`.
    """
    with explained(file.url):
        fs, path = fsspec.core.url_to_fs(file.url)
        fs.invalidate_cache()
        return _stored(fs, path, fs.info(path))


def _stored(fs: Any, path: str, info: dict[str, Any]) -> StoredFile:
    stamp = next((str(info[name]) for name in STAMPS if info.get(name)), "")
    url = path if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(path)
    return StoredFile(url, int(info["size"] or 0), stamp.strip('"'))


def open_for_reading(url: str) -> BinaryIO:
    """Open a seekable file that is fetched in pieces as they are read.

    Raises:
        UsageError: see `find_files`.
    """
    with explained(url):
        fs, path = fsspec.core.url_to_fs(url)
        file: BinaryIO = fs.open(path, "rb")
        return file


def head_of(url: str) -> bytes:
    """Return the first bytes of a file."""
    with explained(url):
        fs, path = fsspec.core.url_to_fs(url)
        content: bytes = fs.read_block(path, 0, HEAD_BYTES)
        return content


@contextmanager
def local_copy(file: StoredFile) -> Iterator[Path]:
    """Yield the path of a local file, or of a temporary copy of a remote one while the block runs.

    Raises:
        UsageError: see `find_files`.
        ResourceError: if the disk has not enough space for the copy.
    """
    if not is_remote(file.url):
        yield Path(file.url)
        return
    with tempfile.TemporaryDirectory(prefix="leantune-part-") as folder:
        copy = Path(folder) / posixpath.basename(file.url)
        with explained(file.url, writes=str(copy)):
            fs, path = fsspec.core.url_to_fs(file.url)
            fs.get_file(path, str(copy))
        yield copy


@dataclass(frozen=True, slots=True)
class Folder:
    """A writable folder on any storage."""

    url: str

    def address(self, name: str) -> str:
        """Return the address of a file in the folder."""
        return f"{self.url.rstrip('/')}/{name}"

    def sizes(self, below: str = "") -> dict[str, int]:
        """Return the sizes in bytes of the files in the folder or a subfolder, by name; empty if it does not exist.

        Raises:
            UsageError: if the storage cannot be reached or denies access.
        """
        with explained(self.url):
            fs, path = fsspec.core.url_to_fs(self.address(below) if below else self.url)
            fs.invalidate_cache()
            try:
                entries = fs.ls(path, detail=True)
            except FileNotFoundError:
                return {}
            except NotADirectoryError as error:
                raise UsageError(
                    f"output {self.url}: is a file, expected a folder; choose another name"
                ) from error
            return {
                posixpath.basename(each["name"]): int(each["size"] or 0)
                for each in entries
                if each["type"] == "file"
            }

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            MissingFileError: if the file does not exist.
            UsageError: see `sizes`.
        """
        url = self.address(name)
        with explained(url):
            fs, path = fsspec.core.url_to_fs(url)
            content: bytes = fs.cat_file(path)
            return content

    def write(self, name: str, content: bytes) -> None:
        """Replace a file atomically.

        Raises:
            ResourceError: if the disk is full or fails.
            UsageError: see `sizes`.
        """
        with self.new_file(name) as path:
            path.write_bytes(content)

    def write_first(self, name: str, content: bytes) -> bool:
        """Write a file and return True, or return False if it already exists.

        The check is atomic on local disks and on S3, so that only one of several concurrent writers succeeds.

        Raises:
            ResourceError: if the disk is full or fails.
            UsageError: see `sizes`.
        """
        url = self.address(name)
        with explained(url, writes=url):
            fs, path = fsspec.core.url_to_fs(url)
            if isinstance(fs, LocalFileSystem):
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                return _link_first(Path(path), content)
            if fs.exists(path):
                return False
            try:
                fs.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
        return True

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Yield a temporary local path, whose content replaces the file if the block ends without an error.

        Raises:
            ResourceError: if the disk is full or fails.
            UsageError: see `sizes`.
        """
        url = self.address(name)
        with explained(url, writes=url):
            fs, path = fsspec.core.url_to_fs(url)
        if isinstance(fs, LocalFileSystem):
            with atomic_file(Path(path)) as temporary:
                yield temporary
            return
        with tempfile.TemporaryDirectory(prefix="leantune-part-") as folder:
            temporary = Path(folder) / posixpath.basename(name)
            yield temporary
            with explained(url, writes=url):
                _put(fs, temporary, path)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        url = self.address(name)
        with explained(url, writes=url):
            fs, path = fsspec.core.url_to_fs(url)
            fs.invalidate_cache()
            if fs.exists(path):
                fs.rm_file(path)


def _link_first(target: Path, content: bytes) -> bool:
    """Write a file by hard linking a complete temporary one, which fails if the name is taken."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=TEMPORARY_PREFIX) as file:
        file.write(content)
        file.flush()
        try:
            target.hardlink_to(file.name)
        except FileExistsError:
            return False
    return True


def _put(fs: Any, source: Path, target: str) -> None:
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    if set(protocols) & set(WHOLE_OBJECTS):
        fs.put_file(str(source), target)
        return
    fs.makedirs(posixpath.dirname(target), exist_ok=True)
    beside = posixpath.join(posixpath.dirname(target), f"{TEMPORARY_PREFIX}{posixpath.basename(target)}")
    with source.open("rb") as read, fs.open(beside, "wb") as write:
        shutil.copyfileobj(read, write, 2**20)
    fs.mv(beside, target)


@contextmanager
def explained(url: str, *, writes: str | None = None) -> Iterator[None]:
    """Turn errors of a storage into errors with a message of one line.

    Raises:
        MissingFileError: if the file, folder or bucket does not exist.
        UsageError: if the storage cannot be reached, denies access, or needs a library that is not installed.
        ResourceError: if a disk is full or fails.
    """
    try:
        yield
    except LeantuneError:
        raise
    except ImportError as error:
        protocol = url.partition("://")[0]
        raise UsageError(
            f"{url}: {one_line(error)}: pip install {EXTRAS.get(protocol, protocol + 'fs')}"
        ) from error
    except FileNotFoundError as error:
        raise MissingFileError(
            f"{url}: the file, folder or bucket does not exist: check the address"
        ) from error
    except Exception as error:
        raise _in_one_line(error, url, writes) from error


def _in_one_line(error: Exception, url: str, writes: str | None) -> LeantuneError:
    """Return the error to raise. Storage libraries raise many classes, whose names show the cause."""
    if not is_remote(url):
        reason = disk_failure(error)
        if reason and writes:
            return ResourceError(f"cannot write {writes}: {reason}")
        return UsageError(f"{url}: {reason or one_line(error)}")
    names = " ".join(kind.__name__ for kind in type(error).__mro__)
    said = one_line(error)
    if isinstance(error, PermissionError) or "Credential" in names or "Forbidden" in said:
        return UsageError(f"{url}: access denied ({said}): check the credentials and their permissions")
    if isinstance(error, ConnectionError | TimeoutError) or "Connect" in names or "Timeout" in names:
        return UsageError(f"{url}: the storage cannot be reached ({said}): check the address and the network")
    if isinstance(error, ValueError) and "Protocol not known" in said:
        return UsageError(
            f"{url}: {said}; expected a path, s3://, gs://, hf:// or another protocol of fsspec"
        )
    if isinstance(error, OSError) and disk_failure(error):
        return ResourceError(f"{writes or url}: {disk_failure(error)}")
    return UsageError(f"{url}: {said}")
