"""HTML built from values that are escaped unless they are markup already.

`tag` is the only place where text becomes markup, so a label or a file name that looks like HTML
stays inert wherever it appears.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from leantune.report.wording import inert


class Html(str):
    """Text that is markup already; every operation on it gives plain, unsafe text again."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Html:
    """One element.

    Args:
        name: of the element.
        children: `Html` goes in as it is, anything else escaped, None not at all.
        attributes: underscores become hyphens and a final one is dropped (``class_``,
            ``aria_label``); True gives a bare attribute, None and False none.
    """
    given = "".join(
        _attribute(key, value)
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def join(parts: Iterable[object]) -> Html:
    """Parts one after the other, escaped as `tag` does."""
    return Html("".join(_markup(part) for part in parts if part is not None))


def table(
    headings: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    caption: str,
    numeric_from: int = 1,
    class_: str | None = None,
) -> Html:
    """A table that scrolls sideways on a narrow screen; the first column heads its row.

    Args:
        headings: one a column.
        rows: one value a column.
        caption: what the table shows, for people who cannot see the page.
        numeric_from: the first column that is set as numbers, flush right.
        class_: of the table.
    """
    look = ["number" if i >= numeric_from else None for i in range(len(headings))]
    head = tag(
        "tr",
        join(tag("th", text, scope="col", class_=look[i]) for i, text in enumerate(headings)),
    )
    body = join(_row(row, look) for row in rows)
    return scrolling(
        tag("table", tag("caption", caption), tag("thead", head), tag("tbody", body), class_=class_),
        label=caption,
    )


def scrolling(content: Html, *, label: str) -> Html:
    """A region that scrolls sideways by itself, reachable by keyboard."""
    return tag("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def disclosure(summary: object, *content: object, is_open: bool = False) -> Html:
    """Content that the reader folds out."""
    return tag("details", tag("summary", summary), *content, open=is_open)


def section(anchor: str, title: str, *content: object) -> Html:
    """A titled part of the page; nothing at all if it has no content."""
    if not any(content):
        return Html("")
    heading = tag("h2", title, id=f"{anchor}-title")
    return tag("section", heading, *content, id=anchor, aria_labelledby=f"{anchor}-title")


def _row(row: Sequence[object], look: Sequence[str | None]) -> Html:
    first = tag("th", row[0], scope="row")
    rest = join(tag("td", value, class_=look[i]) for i, value in enumerate(row[1:], start=1))
    return tag("tr", first, rest)


def _markup(part: object) -> str:
    return part if isinstance(part, Html) else escape(inert(str(part)))


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(inert(str(value)))}"'
