"""Output in the cell of a notebook: the progress of a run, and tables."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

SHOWN_LINES = 8
"""Lines in view; earlier ones are folded."""
_PARTS = re.compile(r"\x1b\[[?\d;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+")


class CellOutput(io.TextIOBase):
    """A small terminal in one output of a cell, which is replaced whenever rich refreshes a live display.

    rich itself needs ipywidgets there, and makes an output of each line.
    """

    def __init__(self) -> None:
        self._lines, self._row = [""], 0
        self._shown: list[str] = []
        self._output: Any = None

    def write(self, text: str) -> int:
        """Add text. Of the control sequences, those that rich redraws live displays with have an effect."""
        for part in _PARTS.findall(text):
            if part == "\n":
                self._row += 1
                self._lines += [""] * (self._row == len(self._lines))
            elif part == "\x1b[1A":
                self._row = max(0, self._row - 1)
            elif part == "\x1b[2K":
                self._lines[self._row] = ""
            elif part[0] not in "\r\x1b":
                self._lines[self._row] += part
        return len(text)

    def flush(self) -> None:
        """Show what was written."""
        from IPython.display import display

        lines = [line.rstrip() for line in self._lines if line.strip()]
        if lines == self._shown:
            return
        self._shown = lines
        early, late = lines[:-SHOWN_LINES], lines[-SHOWN_LINES:]
        folded = (
            f"<details><summary>{len(early)} earlier lines</summary>{_pre(early)}</details>" if early else ""
        )
        content = {"text/plain": "\n".join(lines), "text/html": folded + _pre(late)}
        if self._output is None:
            self._output = display(content, raw=True, display_id=True)
        else:
            self._output.update(content, raw=True)


def html_table(rows: Iterable[Sequence[object]], headings: Sequence[str] = ()) -> str:
    """Return a table whose rows begin with their names; texts are escaped."""
    lines = [_cells(headings, "th")] if headings else []
    lines += [_cells([name], "th") + _cells(values, "td") for name, *values in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cells(values: Iterable[object], tag: str) -> str:
    return "".join(f'<{tag} style="text-align:left">{escape(str(value))}</{tag}>' for value in values)


def _pre(lines: Sequence[str]) -> str:
    text = escape("\n".join(lines))
    return f'<pre style="margin:0;overflow-x:auto;line-height:1.3">{text}</pre>'
