"""Tables whose cells are shaded by their value: picture and figures in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from leantune.report.markup import Html, join, scrolling, tag

STRONG_HEAT = 0.55
"""From this shade on, text needs the colour that contrasts with the accent."""


def heat_table(
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    values: Sequence[Sequence[int | None]],
    heat_of: Callable[[int, int], float],
    *,
    caption: str,
    corner: str = "",
    is_compact: bool = False,
    class_: str = "",
) -> Html:
    """Integers in shaded cells.

    Args:
        row_labels: one a row.
        column_labels: one a column.
        values: ``values[row][column]``; None leaves the cell empty.
        heat_of: the shade of the cell at (row, column), from 0 to 1.
        caption: what the table shows.
        corner: what rows and columns are, for the corner cell.
        is_compact: small squares without labels; each value is in the cell's tooltip.
        class_: more classes of the table.
    """

    def cell(i: int, j: int, value: int | None) -> Html:
        if value is None:
            return tag("td", class_="void")
        heat = heat_of(i, j)
        return tag(
            "td",
            value,
            style=f"--heat:{heat:.0%}",
            class_="strong" if heat > STRONG_HEAT else None,
            title=f"{row_labels[i]}, {column_labels[j]}: {value}",
        )

    head = tag(
        "tr", tag("th", corner, scope="col"), join(tag("th", label, scope="col") for label in column_labels)
    )
    body = join(
        tag(
            "tr",
            tag("th", row_labels[i], scope="row"),
            join(cell(i, j, value) for j, value in enumerate(row)),
        )
        for i, row in enumerate(values)
    )
    look = f"heat compact {class_}" if is_compact else f"heat {class_}"
    content = tag(
        "table", tag("caption", caption), tag("thead", head), tag("tbody", body), class_=look.strip()
    )
    return content if is_compact else scrolling(content, label=caption)
