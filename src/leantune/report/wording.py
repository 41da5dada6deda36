"""Formatting of numbers and text for readers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from typing import Literal

from leantune.config.record.run import Rates

NO_BREAK = "\N{NO-BREAK SPACE}"
ABSENT = "–"


def shortened(text: str, limit: int = 120) -> str:
    """Return the text, cut to at most `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def count(value: float | None) -> str:
    """Format a count as ``12,345``; None as a dash."""
    return ABSENT if value is None else f"{value:,.0f}"


def percent(rate: float | None) -> str:
    """Format a fraction as ``96.3 %``; None as a dash."""
    return ABSENT if rate is None else f"{100 * rate:.1f}{NO_BREAK}%"


def percent_range(interval: Sequence[float] | None) -> str:
    """Format an interval of fractions as ``95.4 to 97.0`` (per cent); None as a dash."""
    return ABSENT if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def rate_with_interval(metrics: Rates, name: Literal["accuracy", "macro_f1", "micro_f1", "lrap"]) -> str:
    """Format the metric `name` with its interval as ``96.3 % (95.4 to 97.0)``."""
    return f"{percent(getattr(metrics, name))} ({percent_range(getattr(metrics, f'{name}_interval'))})"


def duration(seconds: float | None) -> str:
    """Format a duration as ``42.0 s``, ``3 min 12 s`` or ``2 h 05 min``; None as a dash."""
    if seconds is None:
        return ABSENT
    if seconds < 60:
        return f"{seconds:.1f}{NO_BREAK}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NO_BREAK}min {rest}{NO_BREAK}s"
    return f"{minutes // 60}{NO_BREAK}h {minutes % 60:02d}{NO_BREAK}min"


def gibibytes(num_bytes: float | None) -> str:
    """Format a size as ``23.4 GiB``; None as a dash."""
    return ABSENT if num_bytes is None else f"{num_bytes / 2**30:.1f}{NO_BREAK}GiB"


def significant(value: float | None) -> str:
    """Format a number with three significant digits; None as a dash."""
    return ABSENT if value is None else f"{value:.3g}"


def plain(value: object) -> str:
    """Format any value of a record: JSON constants as words, counts with separators."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return significant(value)
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value) or "none"
    return str(value)


def words(key: str) -> str:
    """Format a record key as words: ``truncated_rows`` becomes ``truncated rows``."""
    return key.replace("_", " ")


def path_end(path: str, num_parts: int) -> str:
    """Return the last parts of a path: ``reuters-r8/train.csv``."""
    return "/".join(path.rstrip("/").split("/")[-num_parts:])


_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters except tab and line feed, and marks that change the text direction."""


def inert(text: str) -> str:
    """Return the text with control characters and direction marks written as escape sequences."""
    return _OBEYED.sub(lambda each: ascii(each[0])[1:-1], text)


def markdown(value: object) -> str:
    """Return the value on one line, escaped for Markdown, for HTML within Markdown and for terminals."""
    line = inert(" ".join(str(value).split()))
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", escape(line, quote=False))


def code(value: object) -> str:
    """Return the value on one line, for use between backquotes in Markdown."""
    return inert(" ".join(str(value).replace("`", "'").split()))


def quoted(value: object) -> str:
    """Return the value as a JSON literal, which is also valid Python for strings."""
    return json.dumps(value)
