"""Parses strict JSON: no NaN, no repeated keys, and limits on digits and nesting."""

from __future__ import annotations

import json
import re

from leantune.system.messages import shown

MAX_DEPTH = 100
MAX_DIGITS = 4300

_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
"""An unclosed string matches to the end of the text, so that the search does not restart at every quote in it."""


def parse_strict_json(text: str) -> object:
    """Parse a JSON text.

    Raises:
        ValueError: the text is invalid; the short message says why, and at which character if known.
    """
    _check_depth(text)
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at character {error.pos + 1} ({error.msg})") from None


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        bracket = match[0]
        depth += (bracket in "[{") - (bracket in "]}")
        if depth > MAX_DEPTH:
            raise ValueError(f"brackets nested more than {MAX_DEPTH} deep at character {match.start() + 1}")


class RepeatedKeyError(ValueError):
    """An object contains a key twice."""


class UniqueKeys(dict[str, object]):
    """A dictionary that refuses repeated keys."""

    def __setitem__(self, key: str, value: object) -> None:
        """Set a new key.

        Raises:
            RepeatedKeyError: the key already exists.
        """
        if key in self:
            raise RepeatedKeyError(f"the key {shown(key)} twice in one object")
        super().__setitem__(key, value)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    checked = UniqueKeys()
    for key, value in pairs:
        checked[key] = value
    return checked


def _refuse_constant(word: str) -> object:
    raise ValueError(f"{word}, which is not JSON")


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_bounded_int
)
