"""Types of values on the command line, for ``type=`` of argparse."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable


def path(word: str) -> str:
    """A path; the shell leaves the tilde of ``--output=~/x`` alone."""
    if not word:
        raise argparse.ArgumentTypeError("must not be empty")
    return os.path.expanduser(word)


def at_least(least: int) -> Callable[[str], int]:
    """Whole numbers from ``least`` on."""

    def whole_number(word: str) -> int:
        number = int(word)  # argparse reports a ValueError
        if number < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}. Got {word} instead")
        return number

    whole_number.__name__ = "int"  # argparse: invalid int value
    return whole_number


positive, count = at_least(1), at_least(0)


def number_above(bound: float) -> Callable[[str], float]:
    """Numbers above ``bound``."""

    def number(word: str) -> float:
        value = float(word)  # argparse reports a ValueError
        if not bound < value < 1e6:  # false for nan, too
            raise argparse.ArgumentTypeError(f"must be a number above {bound:g}. Got {word} instead")
        return value

    number.__name__ = "float"
    return number
