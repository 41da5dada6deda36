"""Detects the kind of a file by its first bytes; the suffix only distinguishes CSV, TSV and plain lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

from leantune.data.text.readers.content import PACKING_MAGIC, Content
from leantune.data.text.readers.workbook_file import is_workbook
from leantune.errors import DataError, UnsafeFileError
from leantune.pickle_tables.sniff import looks_like_pickle

Kind = Literal[
    "delimited", "jsonlines", "json list", "parquet", "arrow file", "arrow stream", "pickle", "xlsx"
]
_Name = TypeVar("_Name")

_TABLE_MAGIC: dict[bytes, Kind] = {
    b"PAR1": "parquet",
    b"ARROW1\x00\x00": "arrow file",
    b"\xff\xff\xff\xff": "arrow stream",
}
_ZIP = b"PK\x03\x04"
_ARCHIVE_MAGIC = {
    _ZIP: "a zip archive",
    b"PK\x05\x06": "an empty zip archive",
    b"PK\x07\x08": "a zip archive in parts",
    b"7z\xbc\xaf'\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
}
_OTHER_MAGIC = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF87a": "a GIF image",
    b"GIF89a": "a GIF image",
    b"%PDF-": "a PDF document",
    b"\xd0\xcf\x11\xe0": "an old Microsoft Office file (.xls, .doc), or one with a password",
    b"SQLite format 3\x00": "a SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy .npy file",
    b"\x28\xb5\x2f\xfd": "a zstd file (unpack it with zstd -d)",
    b"FEA1": "a Feather file of version 1",
    b"\x7fELF": "a program",
    b"Obj\x01": "an Avro file",
}
_BOMS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
_PICKLE_SUFFIXES = (".pkl", ".pickle")


def sniff(content: Content) -> Kind:
    """Detect the kind of table that a file contains.

    Raises:
        DataError: the file is empty, or is not a table.
        UnsafeFileError: the file is an archive; archives are not opened.
    """
    head = content.head()
    if not head:
        raise DataError("the file is empty: expected a header and rows", path=content.name)
    if head.startswith(_ZIP) and is_workbook(content):
        return "xlsx"
    _refuse_archive(content, head)
    _refuse_other(content, head)
    kind = _lookup(_TABLE_MAGIC, head)
    if kind is not None:
        return kind
    if content.suffix in _PICKLE_SUFFIXES or looks_like_pickle(head, content.last_byte()):
        return "pickle"
    return _kind_of_text(head.decode(encoding_of(head), "replace").lstrip(), content.suffix)


def _kind_of_text(text: str, suffix: str) -> Kind:
    is_json = suffix in _JSON_SUFFIXES
    if text.startswith("[") and (is_json or text[1:].lstrip().startswith("{")):
        return "json list"
    return "jsonlines" if is_json or text.startswith("{") else "delimited"


def encoding_of(head: bytes) -> str:
    """Return the encoding of the byte order mark, or UTF-8 without one."""
    return _lookup(_BOMS, head) or "utf-8"


def _refuse_archive(content: Content, head: bytes) -> None:
    archive = _lookup(_ARCHIVE_MAGIC, head)
    if head[257:263] in (b"ustar\x00", b"ustar "):
        archive = "a tar archive"
    if archive is not None:
        raise UnsafeFileError(
            f"{content.name}: {archive}, and archives are not opened: "
            "unpack it and name the file inside (a sheet: save it as .xlsx or CSV UTF-8)"
        )


def _refuse_other(content: Content, head: bytes) -> None:
    other = _lookup(_OTHER_MAGIC, head)
    if _lookup(PACKING_MAGIC, head) is not None:
        other = "a file compressed twice"
    if other is not None:
        raise DataError(
            f"{other}, expected CSV, TSV, JSON, .xlsx, Parquet or Arrow: export the rows as one of them",
            path=content.name,
        )


def _lookup(magic: Mapping[bytes, _Name], head: bytes) -> _Name | None:
    return next((name for start, name in magic.items() if head.startswith(start)), None)
