"""Limits that a user sets by environment variables, in MiB."""

from __future__ import annotations

import os

from leantune.data.wording import shown
from leantune.errors import UsageError

MAX_DIGITS = 9


def mebibytes_of(variable: str) -> int | None:
    """Bytes that the environment variable allows, or None if it is not set.

    Raises:
        UsageError: if it is not a whole number, or one of more than `MAX_DIGITS` digits.
    """
    value = os.environ.get(variable)
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS):
        raise UsageError(
            f"{variable} must be a whole number of MiB, at most {MAX_DIGITS} digits. Got {shown(value)} instead"
        )
    return int(value) * 2**20
