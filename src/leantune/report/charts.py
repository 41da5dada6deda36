"""Charts as inline SVG: drawn in the colours of the page, titled and described for everyone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from leantune.report.axis import Axis, axis, tick_text
from leantune.report.markup import Html, join, tag
from leantune.report.wording import percent, percent_range

Point = tuple[float, float]
Look = Literal["line", "thin", "dashed", "dots"]

WIDTH, HEIGHT = 420, 240
MARGIN_TOP, MARGIN_RIGHT, MARGIN_BOTTOM, MARGIN_LEFT = 34, 12, 44, 54
ROW_HEIGHT = 46
MAX_POINTS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One curve of a line chart; a thin one is background and has no place in the legend."""

    name: str
    points: Sequence[Point]
    look: Look = "line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One row of an interval chart; rates are fractions."""

    label: str
    value: float
    low: float
    high: float
    is_main: bool = False
    """Drawn in the accent colour."""


def line_chart(
    series: Iterable[Series],
    *,
    title: str,
    y_label: str,
    x_label: str = "optimiser step",
    marks: Sequence[tuple[float, str]] = (),
) -> Html | None:
    """Curves over one x axis, both axes from zero; None if there is no finite point to draw.

    Args:
        series: the curves; points that are not finite are left out.
        title: read out in place of the drawing, together with the range of each curve.
        y_label: quantity and unit, written above the plot.
        x_label: quantity and unit, written below it.
        marks: x values to point out, each with a word.
    """
    drawn = [Series(name=one.name, points=_finite(one.points), look=one.look) for one in series]
    drawn = [one for one in drawn if one.points]
    if not drawn:
        return None
    points = [point for one in drawn for point in one.points]
    x_axis = axis(0, max(x for x, _ in (*points, *marks)), start=MARGIN_LEFT, end=WIDTH - MARGIN_RIGHT)
    y_axis = axis(0, max(y for _, y in points), start=HEIGHT - MARGIN_BOTTOM, end=MARGIN_TOP)
    return _drawing(
        HEIGHT,
        title,
        ". ".join(_describe(one, x_label) for one in drawn),
        _grid(x_axis, y_axis),
        join(_mark(x_axis.at(x), word, row) for row, (x, word) in enumerate(marks)),
        join(_curve(one, x_axis, y_axis) for one in drawn),
        tag("text", y_label, x=0, y=12, class_="axis-title"),
        tag("text", x_label, x=WIDTH - MARGIN_RIGHT, y=HEIGHT - 6, class_="axis-title end"),
        _legend([one for one in drawn if one.look != "thin"]),
    )


def interval_chart(estimates: Sequence[Estimate], *, title: str, x_label: str) -> Html | None:
    """Rates with their 95 % intervals, one below the other on one axis; None without rows."""
    if not estimates:
        return None
    height = ROW_HEIGHT * len(estimates) + MARGIN_BOTTOM
    low, high = min(one.low for one in estimates), max(one.high for one in estimates)
    x_axis = axis(100 * low, 100 * high, start=14, end=WIDTH - 22)
    bottom = height - MARGIN_BOTTOM
    lines = join(
        tag("line", x1=x_axis.at(tick), x2=x_axis.at(tick), y1=0, y2=bottom, class_="grid")
        for tick in x_axis.ticks
    )
    texts = join(
        tag("text", tick_text(tick), x=x_axis.at(tick), y=bottom + 16, class_="tick middle")
        for tick in x_axis.ticks
    )
    return _drawing(
        height,
        title,
        ". ".join(_estimate_text(one) for one in estimates),
        lines,
        texts,
        join(_whisker(one, x_axis, ROW_HEIGHT * i) for i, one in enumerate(estimates)),
        tag("text", x_label, x=WIDTH - MARGIN_RIGHT, y=height - 6, class_="axis-title end"),
    )


def stacked_bar(parts: Sequence[tuple[str, float]], *, total: float, title: str) -> Html:
    """Parts of a whole, side by side.

    Args:
        parts: CSS class and size of each, left to right.
        total: the size of the full width.
        title: read out in place of the drawing.
    """
    edges = [0.0]
    for _, size in parts:
        edges.append(edges[-1] + WIDTH * size / total)
    bars = join(
        tag("rect", x=round(left, 1), y=0, width=round(max(0.0, right - left - 1), 1), height=12, class_=name)
        for (name, _), (left, right) in zip(parts, pairwise(edges), strict=True)
    )
    frame = tag("rect", x=0.5, y=0.5, width=WIDTH - 1, height=11, class_="frame")
    return tag("svg", tag("title", title), bars, frame, viewBox=f"0 0 {WIDTH} 12", role="img", class_="bar")


def _drawing(height: int, title: str, description: str, *content: Html | None) -> Html:
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        *content,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label=f"{title}. {description}",
    )


def _grid(x_axis: Axis, y_axis: Axis) -> Html:
    left, right = MARGIN_LEFT, WIDTH - MARGIN_RIGHT
    bottom = HEIGHT - MARGIN_BOTTOM
    lines = join(
        tag("line", x1=left, x2=right, y1=y_axis.at(tick), y2=y_axis.at(tick), class_="grid")
        for tick in y_axis.ticks
    )
    y_texts = join(
        tag("text", tick_text(tick), x=left - 8, y=y_axis.at(tick) + 4, class_="tick end")
        for tick in y_axis.ticks
    )
    x_texts = join(
        tag("text", tick_text(tick), x=x_axis.at(tick), y=bottom + 18, class_="tick middle")
        for tick in x_axis.ticks
    )
    return join([lines, y_texts, x_texts])


def _mark(x: float, word: str, row: int) -> Html:
    """A vertical line with its word in a row of its own, so that near marks do not collide."""
    fits_right = x < WIDTH - 7.5 * len(word)
    text = tag(
        "text",
        word,
        x=x + 5 if fits_right else x - 5,
        y=MARGIN_TOP + 14 + 16 * row,
        class_="tick" if fits_right else "tick end",
    )
    line = tag("line", x1=x, x2=x, y1=MARGIN_TOP, y2=HEIGHT - MARGIN_BOTTOM, class_="mark")
    return join([line, text])


def _curve(series: Series, x_axis: Axis, y_axis: Axis) -> Html:
    places = [(x_axis.at(x), y_axis.at(y)) for x, y in _thin(series.points)]
    if series.look == "dots" or len(places) == 1:
        return join(tag("circle", cx=x, cy=y, r=4, class_="dot") for x, y in places)
    path = " ".join(f"{x},{y}" for x, y in places)
    return tag("polyline", points=path, class_=f"curve {series.look}")


def _legend(series: Sequence[Series]) -> Html | None:
    """Right of the y label, from the right edge leftwards."""
    if len(series) < 2:
        return None
    entries, right = [], float(WIDTH - MARGIN_RIGHT)
    for one in reversed(series):
        entries.append(tag("text", one.name, x=right, y=12, class_="tick end"))
        # Seven and a half units a letter is a little more than the page's font needs at this size.
        left = right - 7.5 * len(one.name) - 6
        key = (
            tag("circle", cx=left - 9, cy=8, r=4, class_="dot")
            if one.look == "dots"
            else tag("line", x1=left - 18, x2=left, y1=8, y2=8, class_=f"curve {one.look}")
        )
        entries.append(key)
        right = left - 32
    return join(entries)


def _whisker(estimate: Estimate, x_axis: Axis, top: float) -> Html:
    main = " main" if estimate.is_main else ""
    y = top + 30
    low, high = x_axis.at(100 * estimate.low), x_axis.at(100 * estimate.high)
    return join(
        [
            tag("text", _estimate_text(estimate), x=0, y=top + 15, class_=f"row-text{main}"),
            tag("line", x1=low, x2=high, y1=y, y2=y, class_=f"whisker{main}"),
            tag("circle", cx=x_axis.at(100 * estimate.value), cy=y, r=5, class_=f"dot{main}"),
        ]
    )


def _estimate_text(estimate: Estimate) -> str:
    interval = percent_range((estimate.low, estimate.high))
    return f"{estimate.label}: {percent(estimate.value)} ({interval})"


def _describe(series: Series, x_label: str) -> str:
    (first_x, first_y), (last_x, last_y) = series.points[0], series.points[-1]
    return (
        f"{series.name}: {first_y:.4g} at {x_label} {first_x:,.0f}, {last_y:.4g} at {last_x:,.0f}, "
        f"lowest {min(y for _, y in series.points):.4g}"
    )


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _thin(points: Sequence[Point]) -> list[Point]:
    """Every k-th point and the last one, so that a long run makes no large page."""
    stride = -(-len(points) // MAX_POINTS)
    return [*points[:-1:stride], points[-1]]
