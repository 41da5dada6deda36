"""Formats values and names for error messages: short, quoted where needed, and always on one line."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_TYPE_WORDS = {
    "NoneType": "null",
    "bool": "a boolean",
    "int": "a number",
    "float": "a number",
    "list": "a list",
    "dict": "an object",
    "bytes": "bytes",
    "str": "a text",
}


MAX_COMPARED, MAX_COMPARED_CHARS = 1000, 100
"""Largest number of names, and of characters in a name, that are compared for a suggestion."""


@dataclass(frozen=True, slots=True)
class Opaque:
    """A cell with neither a text nor a number; ``word`` describes it, such as ``"a date"``."""

    word: str


def shown(value: object, limit: int = 60) -> str:
    """Return the ``repr`` of a value, cut to ``limit`` characters.

    Long texts, numbers and collections are cut before ``repr`` is called, so that huge values are cheap.
    """
    if isinstance(value, str) and len(value) > limit:
        return f"{value[:limit]!r}..."
    if isinstance(value, int) and value.bit_length() > 4 * limit:
        return f"a number of {value.bit_length()} bits"
    text = reprlib.repr(value) if isinstance(value, list | tuple | dict | set) else repr(value)
    return text if len(text) <= limit + 2 else f"{text[:limit]}..."


def type_word(value: object) -> str:
    """Return a value's type as users of data files call it: ``"a number"``, ``"a list"``, ``"null"``."""
    if isinstance(value, Opaque):
        return value.word
    name = type(value).__name__
    return _TYPE_WORDS.get(name, name)


def place_name(name: str) -> str:
    """Return a file or column name as it is, or quoted if it would not be readable on one line."""
    return name if name.isprintable() else repr(name)


def listed(names: Iterable[str], limit: int = 10) -> str:
    """Return quoted names separated by commas; names after the first ``limit`` are only counted."""
    names = list(names)
    rest = len(names) - limit
    return ", ".join(shown(name) for name in names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def nearest(wanted: str, names: Sequence[str]) -> str:
    """Return ``"; did you mean 'Text'?"`` if a name is close to the wanted one, else an empty text."""
    found = nearest_name(wanted, names)
    return "" if found is None else f"; did you mean {shown(found)}?"


def nearest_name(wanted: str, names: Sequence[str]) -> str | None:
    """Return the name closest to the wanted one, ignoring case; None if none is close.

    Only the first `MAX_COMPARED` names are compared, and no long ones, because the time of a comparison grows with the
    product of the lengths.
    """
    candidates = [name for name in names[:MAX_COMPARED] if len(name) <= MAX_COMPARED_CHARS]
    lowered = {name.lower(): name for name in reversed(candidates)}
    wanted = wanted[:MAX_COMPARED_CHARS]
    close = difflib.get_close_matches(wanted.lower(), lowered, n=1)
    return lowered[close[0]] if close else None


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return an exception's text, cut to ``limit`` characters, without newlines and terminal control characters."""
    text = " ".join(str(error).split())
    cut = text if len(text) <= limit else f"{text[:limit]} …"
    return cut if cut.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
