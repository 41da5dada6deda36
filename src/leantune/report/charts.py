"""Charts in drawing coordinates; ``templates/charts.svg`` renders them in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from leantune.report.wording import percent, percent_range

Point = tuple[float, float]
Look = Literal["line", "thin", "dashed", "dots", "rings"]

WIDTH, HEIGHT = 420, 240
MARGIN_TOP, MARGIN_RIGHT, MARGIN_BOTTOM, MARGIN_LEFT = 34, 12, 44, 54
ROW_HEIGHT = 46
LETTER_WIDTH = 7.5
"""Estimated width of a character, slightly above the average of the page's font."""
MAX_POINTS = 400


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale whose ends are ticks."""

    ticks: tuple[float, ...]
    """Values of the ticks: at least two, in ascending order."""
    start: float
    """Drawing coordinate of the first tick."""
    end: float
    """Drawing coordinate of the last tick."""

    def at(self, value: float) -> float:
        """Return the drawing coordinate of a value, rounded to a tenth of a unit."""
        share = (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True, slots=True)
class LogAxis(Axis):
    """A logarithmic scale whose ticks are powers of ten."""

    def at(self, value: float) -> float:
        """Return the drawing coordinate of a positive value, rounded to a tenth of a unit."""
        first, last = math.log10(self.ticks[0]), math.log10(self.ticks[-1])
        share = (math.log10(value) - first) / (last - first)
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One curve of a line chart. Thin curves are background and have no legend entry."""

    name: str
    points: Sequence[Point]
    look: Look = "line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A labelled vertical line."""

    x: float
    word: str

    @property
    def fits_right(self) -> bool:
        """Whether the word fits between the line and the edge of the drawing."""
        return self.x < WIDTH - LETTER_WIDTH * len(self.word)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChart:
    """A chart of curves over one x axis, in drawing coordinates."""

    title: str
    description: str
    """Text alternative for screen readers."""
    x: Axis
    y: Axis
    x_label: str
    y_label: str
    curves: Sequence[Series]
    marks: Sequence[Mark]
    legend: Sequence[tuple[Series, float]]
    """Curves with the x coordinate where their name ends; empty for a single curve."""
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One row of an interval chart. Rates are fractions."""

    label: str
    value: float
    low: float
    high: float
    is_main: bool = False
    """Whether the row is drawn in the accent colour."""

    @property
    def text(self) -> str:
        """Label, value and interval: ``leantune: 96.3 % (95.4 to 97.0)``."""
        return f"{self.label}: {percent(self.value)} ({percent_range((self.low, self.high))})"


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalChart:
    """A chart of rates with their 95 % intervals, one per row, on a percentage axis."""

    title: str
    description: str
    x: Axis
    x_label: str
    rows: Sequence[Estimate]
    row_height: int = ROW_HEIGHT
    width: int = WIDTH

    @property
    def bottom(self) -> int:
        """The y coordinate where the rows end and the axis begins."""
        return ROW_HEIGHT * len(self.rows)

    @property
    def height(self) -> int:
        """Height of the rows, the axis and its title."""
        return self.bottom + MARGIN_BOTTOM


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A stacked horizontal bar."""

    title: str
    parts: Sequence[tuple[str, float, float]]
    """CSS class, left edge and width of each part."""
    width: int = WIDTH


def line_chart(
    series: Iterable[Series],
    *,
    title: str,
    y_label: str,
    x_label: str = "optimiser step",
    marks: Iterable[tuple[float, str]] = (),
    y_low: float = 0,
    x: Axis | None = None,
) -> LineChart | None:
    """Return a chart of curves over an x axis, or None if no point is finite.

    Args:
        series: the curves; points that are not finite are left out.
        title: title, which is also the first part of the text alternative.
        y_label: quantity and unit, written above the plot.
        x_label: quantity and unit, written below the plot.
        marks: x values to mark, each with a word.
        y_low: start of the y axis, which is rounded down to a tick.
        x: the x axis; None for a linear axis from zero.
    """
    finite = [Series(name=one.name, points=_finite(one.points), look=one.look) for one in series]
    drawn = [one for one in finite if one.points]
    if not drawn:
        return None
    points, marks = [point for one in drawn for point in one.points], list(marks)
    x = x or axis(0, max(at for at, _ in (*points, *marks)), start=MARGIN_LEFT, end=WIDTH - MARGIN_RIGHT)
    y = axis(y_low, max(at for _, at in points), start=HEIGHT - MARGIN_BOTTOM, end=MARGIN_TOP)
    curves = [
        Series(name=one.name, points=[(x.at(a), y.at(b)) for a, b in _thin(one.points)], look=one.look)
        for one in drawn
    ]
    return LineChart(
        title=title,
        description=". ".join(_describe(one, x_label) for one in drawn),
        x=x,
        y=y,
        x_label=x_label,
        y_label=y_label,
        curves=curves,
        marks=[Mark(x=x.at(at), word=word) for at, word in marks],
        legend=_legend([one for one in curves if one.look != "thin"]),
    )


def interval_chart(estimates: Sequence[Estimate], *, title: str, x_label: str) -> IntervalChart | None:
    """Return a chart of rates with their intervals, or None if there are no estimates."""
    if not estimates:
        return None
    low, high = min(one.low for one in estimates), max(one.high for one in estimates)
    return IntervalChart(
        title=title,
        description=". ".join(one.text for one in estimates),
        x=axis(100 * low, 100 * high, start=14, end=WIDTH - 22),
        x_label=x_label,
        rows=estimates,
    )


def stacked_bar(parts: Sequence[tuple[str, float]], *, total: float, title: str) -> Bar:
    """Return a stacked horizontal bar.

    Args:
        parts: CSS class and size of each part, left to right.
        total: size that corresponds to the full width.
        title: text alternative for screen readers.
    """
    edges = [0.0]
    for _, size in parts:
        edges.append(edges[-1] + WIDTH * size / total)
    places = [
        (name, round(left, 1), round(max(0.0, right - left - 1), 1))
        for (name, _), (left, right) in zip(parts, pairwise(edges), strict=True)
    ]
    return Bar(title=title, parts=places)


def axis(low: float, high: float, *, start: float, end: float, num_ticks: int = 5) -> Axis:
    """Return an axis over at least [low, high] with ticks in steps of 1, 2, 2.5 or 5 times 10^k.

    Args:
        low: the smallest value to show.
        high: the largest value to show; if it equals `low` up to rounding, one unit around `low` is shown.
        start: drawing coordinate of the low end.
        end: drawing coordinate of the high end.
        num_ticks: approximate number of ticks.
    """
    if high - low <= max(1e-9 * abs(low), 1e-300):
        low, high = low - 0.5, low + 0.5
    step = _round_step((high - low) / max(1, num_ticks - 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # A multiple of 0.1 must not be written 0.30000000000000004; 2.5 needs one digit more than 2.
    num_digits = 1 - math.floor(math.log10(step))
    ticks = tuple(round(i * step, num_digits) for i in range(first, last + 1))
    return Axis(ticks, start, end)


def log_axis(low: float, high: float, *, start: float, end: float) -> LogAxis:
    """Return a logarithmic axis over at least [low, high], both positive; see `axis`."""
    first = math.floor(math.log10(low))
    last = max(first + 1, math.ceil(math.log10(high)))
    return LogAxis(tuple(10.0**power for power in range(first, last + 1)), start, end)


def tick_text(value: float) -> str:
    """Format a tick: ``1,000``, ``0.25``, ``1.5e-4``."""
    if value == int(value):
        return f"{value:,.0f}"
    if abs(value) >= 0.001:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _round_step(rough: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return magnitude * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)


def _legend(curves: Sequence[Series]) -> list[tuple[Series, float]]:
    """Place legend entries beside the y label, starting at the right edge."""
    if len(curves) < 2:
        return []
    places, right = [], float(WIDTH - MARGIN_RIGHT)
    for one in reversed(curves):
        places.append((one, right))
        right -= LETTER_WIDTH * len(one.name) + 38
    return places


def _describe(series: Series, x_label: str) -> str:
    (first_x, first_y), (last_x, last_y) = series.points[0], series.points[-1]
    return (
        f"{series.name}: {first_y:.4g} at {x_label} {first_x:,.0f}, {last_y:.4g} at {last_x:,.0f}, "
        f"lowest {min(y for _, y in series.points):.4g}"
    )


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _thin(points: Sequence[Point]) -> list[Point]:
    """Return every k-th point and the last one, which limits the size of the page for long runs."""
    stride = -(-len(points) // MAX_POINTS)
    return [*points[:-1:stride], points[-1]]
