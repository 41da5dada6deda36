"""How small a classifier can be: the curve and the table of ``frontier.json``."""

from __future__ import annotations

from leantune.config.frontier_file import FrontierRecord
from leantune.report.charts import MARGIN_LEFT, WIDTH, LineChart, Series, line_chart, log_axis
from leantune.report.tables import Table
from leantune.report.wording import count, duration, percent, percent_range

MEGABYTE = 1_000_000
RIGHT = WIDTH - 40
"""Where the x axis ends: half of its last number is to the right of it."""


def finding(frontier: FrontierRecord) -> str:
    """What the curve says."""
    smallest, best = frontier.named(frontier.smallest), frontier.named(frontier.best)
    said = (
        f"{smallest.name}: {count(smallest.parameters)} trainable parameters reach {percent(smallest.accuracy)} of "
        f"{count(frontier.held_out)} held-out rows."
    )
    if smallest == best:
        return f"{said} None is more accurate."
    return (
        f"{said} That is within a standard error of the best, {best.name}, which has {count(best.parameters)} and "
        f"{percent(best.accuracy)}."
    )


def curve(frontier: FrontierRecord) -> LineChart | None:
    """Accuracy over trainable parameters, with intervals."""
    points = frontier.points
    bars = [
        Series(
            name="95 % interval",
            points=[(point.parameters, 100 * end) for end in point.accuracy_interval],
            look="thin",
        )
        for point in points
    ]
    line = Series(name="accuracy", points=[(point.parameters, 100 * point.accuracy) for point in points])
    smallest = frontier.named(frontier.smallest)
    return line_chart(
        [*bars, line],
        title="Accuracy over trainable parameters",
        y_label="accuracy, %",
        x_label="trainable parameters",
        marks=[(smallest.parameters, "small enough")],
        y_low=min(100 * point.accuracy_interval[0] for point in points),
        x=log_axis(points[0].parameters, points[-1].parameters, start=MARGIN_LEFT, end=RIGHT),
    )


def table(frontier: FrontierRecord) -> Table:
    """All classifiers, the smallest first."""
    return Table(
        caption="Classifiers from one frontier",
        headings=("classifier", "trainable parameters", "MB", "accuracy", "95 % interval", "training"),
        rows=[
            (
                point.name,
                count(point.parameters),
                f"{point.bytes / MEGABYTE:,.2f}",
                percent(point.accuracy),
                percent_range(point.accuracy_interval),
                duration(point.seconds),
            )
            for point in frontier.points
        ],
    )
