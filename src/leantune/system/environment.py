"""Reads whole numbers from environment variables."""

from __future__ import annotations

import os
import reprlib

from leantune.errors import UsageError

MAX_DIGITS = 9


def whole_number(variable: str, what: str = "a whole number") -> int | None:
    """Return the value of an environment variable, or None if it is not set.

    Args:
        variable: the name of the variable.
        what: the kind of value, for the message.

    Raises:
        UsageError: the value is not a whole number, or has more than `MAX_DIGITS` digits.
    """
    value = os.environ.get(variable)
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS):
        raise UsageError(
            f"{variable} must be {what}, of at most {MAX_DIGITS} digits. Got {reprlib.repr(value)} instead"
        )
    return int(value)


def mebibytes(variable: str) -> int | None:
    """Return the value of an environment variable in MiB as bytes, or None if it is not set.

    Raises:
        UsageError: as for `whole_number`.
    """
    value = whole_number(variable, "a whole number of MiB")
    return None if value is None else value * 2**20
