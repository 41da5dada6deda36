"""The bytes of a pickle as a table: decoded, measured, matched."""

from __future__ import annotations

from leantune.pickle_tables.columns import DecodedTable
from leantune.pickle_tables.decode import decode
from leantune.pickle_tables.measure import check_size
from leantune.pickle_tables.opcodes import refusal
from leantune.pickle_tables.shapes.match import Mismatch
from leantune.pickle_tables.shapes.tables import match_table


def read_pickle(data: bytes, name: str, split: str) -> DecodedTable:
    """The table in a pickle; nothing that the pickle names is imported or called.

    Args:
        data: the whole pickle, unpacked.
        name: of the file, for messages.
        split: the split of a pickled DatasetDict.

    Raises:
        UnsafeFileError: anything but a known table of known types.
        DataError: a pickle that is cut short, or a table whose columns cannot be read.
        UsageError: a DatasetDict without this split.
    """
    root = decode(data, name)
    check_size(root, name)
    try:
        return match_table(root, name, split)
    except Mismatch as mismatch:
        raise refusal(name, mismatch.place, mismatch.found) from mismatch
