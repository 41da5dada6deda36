"""Numbers as people read them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from typing import Literal

from leantune.config.record.run import Measures

NO_BREAK = "\N{NO-BREAK SPACE}"
ABSENT = "–"


def shortened(text: str, limit: int = 120) -> str:
    """A name, cut where it would make a page of its own."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def count(value: float | None) -> str:
    """``12,345``; a dash for None."""
    return ABSENT if value is None else f"{value:,.0f}"


def percent(rate: float | None) -> str:
    """A fraction as ``96.3 %``; a dash for None."""
    return ABSENT if rate is None else f"{100 * rate:.1f}{NO_BREAK}%"


def percent_range(interval: Sequence[float] | None) -> str:
    """An interval of fractions as ``95.4 to 97.0``; a dash for None."""
    return ABSENT if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def rate_with_interval(metrics: Measures, name: Literal["accuracy", "macro_f1", "micro_f1", "lrap"]) -> str:
    """``96.3 % (95.4 to 97.0)`` for the metric `name`."""
    return f"{percent(getattr(metrics, name))} ({percent_range(getattr(metrics, f'{name}_interval'))})"


def duration(seconds: float | None) -> str:
    """``42.0 s``, ``3 min 12 s`` or ``2 h 05 min``; a dash for None."""
    if seconds is None:
        return ABSENT
    if seconds < 60:
        return f"{seconds:.1f}{NO_BREAK}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NO_BREAK}min {rest}{NO_BREAK}s"
    return f"{minutes // 60}{NO_BREAK}h {minutes % 60:02d}{NO_BREAK}min"


def gibibytes(num_bytes: float | None) -> str:
    """``23.4 GiB``; a dash for None."""
    return ABSENT if num_bytes is None else f"{num_bytes / 2**30:.1f}{NO_BREAK}GiB"


def significant(value: float | None) -> str:
    """Three significant digits; a dash for None."""
    return ABSENT if value is None else f"{value:.3g}"


def plain(value: object) -> str:
    """Any value of a record: words for the JSON constants, counts with separators."""
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
    """A key of the record as words: ``truncated_rows`` becomes ``truncated rows``."""
    return key.replace("_", " ")


def path_end(path: str, num_parts: int) -> str:
    """The last parts of a path: ``reuters-r8/train.csv``."""
    return "/".join(path.rstrip("/").split("/")[-num_parts:])


_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Controls, but for the tab and the end of a line, and marks that turn the direction of what follows."""


def inert(text: str) -> str:
    """Text in which terminals and browsers find nothing to obey: such characters are written as their numbers."""
    return _OBEYED.sub(lambda each: ascii(each[0])[1:-1], text)


def markdown(value: object) -> str:
    """Text that Markdown, the HTML in it and terminals leave alone, on one line."""
    line = inert(" ".join(str(value).split()))
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", escape(line, quote=False))


def code(value: object) -> str:
    """Text between backquotes, on one line."""
    return inert(" ".join(str(value).replace("`", "'").split()))


def quoted(value: object) -> str:
    """A value as Python and JSON write it."""
    return json.dumps(value)
