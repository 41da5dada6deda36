"""Recognizes an .xlsx file by the members of its zip archive, and checks it by unpacking it once within limits."""

from __future__ import annotations

import zipfile
import zlib

from leantune.data.text.readers.content import UNPACKED_VARIABLE, Content, unpacked_limit
from leantune.errors import DataError, UnsafeFileError
from leantune.system.messages import one_line

_MEMBERS = {"[Content_Types].xml", "xl/workbook.xml"}
_BLOCK_BYTES = 2**20
_DECLARATION = b"<!DOCTYPE"
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)
"""Errors of ``zipfile`` for archives that are damaged, encrypted or compressed in an unknown way."""


def is_workbook(content: Content) -> bool:
    """Whether a file that begins like a zip archive is an Excel workbook."""
    if content.packing is not None:
        return False
    try:
        with zipfile.ZipFile(content.path) as archive:
            return set(archive.namelist()) >= _MEMBERS
    except DAMAGED:
        return False


def check_workbook(content: Content) -> None:
    """Check a workbook by unpacking it once before openpyxl, which trusts its input, reads it.

    Raises:
        DataError: the workbook is damaged, or its unpacked size exceeds the limit.
        UnsafeFileError: its XML has a document type, whose entities may expand without end.
    """
    limit = unpacked_limit(content.stamp[0])
    try:
        with zipfile.ZipFile(content.path) as archive:
            members = archive.infolist()
            # zipfile never unpacks more than the declared size of a member
            if sum(member.file_size for member in members) > limit:
                raise DataError(
                    f"the workbook unpacks to more than {limit:,} bytes: save the sheet as CSV if that is what you "
                    f"expect, or set {UNPACKED_VARIABLE}",
                    path=content.name,
                )
            for member in members:
                _check_member(archive, member, content.name)
    except DAMAGED as error:
        raise DataError(
            f"the workbook is damaged ({one_line(error)}): make or download it again", path=content.name
        ) from error


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> None:
    if member.compress_type not in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    ):  # other methods unpack without a limit
        raise DataError(
            f"{member.filename} is compressed in a way that workbooks do not use: save it again", path=name
        )
    end = b""
    with archive.open(member) as stream:
        while block := stream.read(_BLOCK_BYTES):
            if _DECLARATION in (end + block).replace(b"\0", b""):  # also finds UTF-16
                raise UnsafeFileError(
                    f"{name}: a document type in {member.filename}: refused; save the sheet as CSV UTF-8"
                )
            end = block[-2 * len(_DECLARATION) :]
