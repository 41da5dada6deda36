"""Reads the bytes of a pickle as a table, in three steps: decode, measure and match."""

from __future__ import annotations

from leantune.pickle_tables.columns import DecodedTable
from leantune.pickle_tables.decode import decode
from leantune.pickle_tables.measure import check_size
from leantune.pickle_tables.opcodes import refusal
from leantune.pickle_tables.shapes.match import Mismatch
from leantune.pickle_tables.shapes.tables import match_table


def read_pickle(data: bytes, name: str, split: str) -> DecodedTable:
    """Read the table in a pickle without importing or calling anything that the pickle names.

    Args:
        data: the whole pickle, unpacked.
        name: the file, for messages.
        split: the split of a pickled DatasetDict.

    Raises:
        UnsafeFileError: the pickle is not a known table of known types.
        DataError: the pickle is cut short, or the columns of the table cannot be read.
        UsageError: the DatasetDict does not have this split.
    """
    root = decode(data, name)
    check_size(root, name)
    try:
        return match_table(root, name, split)
    except Mismatch as mismatch:
        raise refusal(name, mismatch.place, mismatch.found) from mismatch
