"""Kinds of values that can be typed, for ``type=`` of argparse, which says what is wrong with one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from leantune.errors import UsageError


def path(word: str) -> str:
    """A path as typed; the shell leaves the tilde of ``--output=~/x`` alone."""
    if not word:
        raise argparse.ArgumentTypeError("must not be empty")
    return os.path.expanduser(word)


def positive(word: str) -> int:
    """A whole number from 1 on."""
    number = int(word)  # argparse says what a ValueError means
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1. Got {word} instead")
    return number


def count(word: str) -> int:
    """A whole number from 0 on."""
    number = int(word)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0. Got {word} instead")
    return number


def list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Values with commas between them."""

    def values(word: str) -> list[Any]:
        try:
            return [kind(each) for each in word.split(",")]
        except ValueError as error:
            raise argparse.ArgumentTypeError(
                f"must be numbers with commas between them. Got {word} instead"
            ) from error

    return values


def seconds(word: str) -> float:
    """A number above 0."""
    number = seconds_or_none(word)
    if number == 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return number


def seconds_or_none(word: str) -> float:
    """A number from 0 on."""
    number = float(word)  # argparse says what a ValueError means
    if not 0 <= number < 1e6:  # nan is neither
        raise argparse.ArgumentTypeError(f"must be a number from 0 on. Got {word} instead")
    return number


def share_of(word: str, flag: str) -> float:
    """``95%`` or ``0.95``.

    Raises:
        UsageError: if it is no share between 0 and 1.
    """
    try:
        share = float(word.removesuffix("%")) / (100 if word.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UsageError(f"{flag} {word}: must be a share between 0 and 1, as 95% or 0.95")
    return share
