"""The zip archive that an .xlsx file is: known by its members, and unpacked once within limits before it is read."""

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
"""What the module raises over archives that are damaged, or packed or encrypted in ways that it does not know."""


def is_workbook(content: Content) -> bool:
    """Whether a file that begins as a zip archive is an Excel workbook."""
    if content.packing is not None:
        return False
    try:
        with zipfile.ZipFile(content.path) as archive:
            return set(archive.namelist()) >= _MEMBERS
    except DAMAGED:
        return False


def check_workbook(content: Content) -> None:
    """Unpack a workbook once, before a parser that trusts it does.

    Raises:
        DataError: if it is damaged, or unpacks to too much.
        UnsafeFileError: for XML with a document type, whose entities may grow without end.
    """
    limit = unpacked_limit(content.stamp[0])
    try:
        with zipfile.ZipFile(content.path) as archive:
            members = archive.infolist()
            # no more than what is declared is ever unpacked of a member
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
    ):  # others unpack without a limit
        raise DataError(
            f"{member.filename} is compressed in a way that workbooks do not use: save it again", path=name
        )
    end = b""
    with archive.open(member) as stream:
        while block := stream.read(_BLOCK_BYTES):
            if _DECLARATION in (end + block).replace(b"\0", b""):  # in UTF-16, too
                raise UnsafeFileError(
                    f"{name}: a document type in {member.filename}: refused; save the sheet as CSV UTF-8"
                )
            end = block[-2 * len(_DECLARATION) :]
