"""Converts typed values and YAML values to the type of a recipe key."""

from __future__ import annotations

import contextlib
import re
import types
import typing
from typing import Any, Literal

MAX_DIGITS = 18
"""Largest number of characters in a whole number, with sign and separators, so that it fits 64 bits."""
_DIGITS = re.compile(r"[+-]?(\d[\d_]*|\d{1,3}(,\d{3})+)", re.ASCII)
_IN_THOUSANDS = re.compile(r"(\d+(?:\.\d+)?) ?([kKmM])", re.ASCII)
_UNITS = {"k": 1_000, "m": 1_000_000}


def convert(value: Any, hint: Any) -> Any:
    """Convert ``value`` to the type ``hint``.

    Raises:
        ValueError: the value is invalid; the message says what is expected.
    """
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if types.NoneType in typing.get_args(hint) and str(value).lower() in ("", "none", "null"):
            return None
        *others, last = (each for each in typing.get_args(hint) if each is not types.NoneType)
        for each in others:
            with contextlib.suppress(ValueError):
                return convert(value, each)
        return convert(value, last)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if str(value).lower() not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return str(value).lower()
    if typing.get_origin(hint) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ValueError("a list, or names separated by commas")
        if any(item is None or isinstance(item, bool) for item in items):
            raise ValueError(
                "names; YAML does not read yes, no, on, off, true, false and null as text: write them in quotes"
            )
        return tuple(str(item).strip() for item in items)
    return _SCALARS[hint](value)


def _to_bool(value: Any) -> bool:
    words = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    if str(value).lower() not in words:
        raise ValueError("true or false")
    return words[str(value).lower()]


def _to_int(value: Any) -> int:
    """Convert digits with or without thousands separators, a float such as ``1e6``, or ``100k`` and ``1.5M``."""
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:  # Python may refuse to print larger ones
        raise ValueError(f"a whole number of at most {MAX_DIGITS} digits")
    text = str(value)
    try:
        if _DIGITS.fullmatch(text):
            if len(text) > MAX_DIGITS:
                raise ValueError
            return int(text.replace(",", ""))
        short = _IN_THOUSANDS.fullmatch(text)
        number = round(float(short[1]) * _UNITS[short[2].lower()], 6) if short else float(text)
    except ValueError:
        raise ValueError("a whole number") from None
    if isinstance(value, bool) or not number.is_integer() or abs(number) > 2**53:
        raise ValueError("a whole number")
    return int(number)


def _to_float(value: Any) -> float:
    """A number, or a share in per cent such as ``0.1%``."""
    text = str(value).replace("_", "")
    try:
        number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError("a number") from None
    if isinstance(value, bool) or number != number or number in (float("inf"), float("-inf")):
        raise ValueError("a finite number")
    return number


def _to_str(value: Any) -> str:
    if value is None or isinstance(value, dict | list):
        raise ValueError("text")
    return str(value)


_SCALARS: dict[Any, Any] = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_str}
