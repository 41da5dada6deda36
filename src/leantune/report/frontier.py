"""Accuracy by size: the curve and the table of ``frontier.json``."""

from __future__ import annotations

from leantune.config.frontier_file import FrontierRecord
from leantune.report.charts import MARGIN_LEFT, WIDTH, LineChart, Series, line_chart, log_axis
from leantune.report.tables import Table
from leantune.report.wording import count, duration, percent, percent_range

THOUSAND, MEGABYTE = 1_000, 1_000_000
RIGHT = WIDTH - 40
"""End of the x axis, which leaves space for half of the last tick's number."""


def finding(frontier: FrontierRecord) -> str:
    """Describe the smallest classifier that is good enough, and the best one."""
    smallest, best = frontier.named(frontier.smallest), frontier.named(frontier.best)
    said = (
        f"{smallest.name}: {count(smallest.parameters)} trainable parameters reach an accuracy of "
        f"{percent(smallest.accuracy)} on {count(frontier.held_out)} held-out rows."
    )
    if smallest == best:
        return f"{said} No other classifier is more accurate."
    return (
        f"{said} This is within one standard error of the best classifier, {best.name}, with "
        f"{count(best.parameters)} parameters and {percent(best.accuracy)}."
    )


def curve(frontier: FrontierRecord) -> LineChart | None:
    """Return a chart of accuracy over trainable parameters, with intervals."""
    points = frontier.points
    bars = [
        Series(
            name="95 % interval",
            points=[(point.parameters / THOUSAND, 100 * end) for end in point.accuracy_interval],
            look="thin",
        )
        for point in points
    ]
    means = [(point.parameters / THOUSAND, 100 * point.accuracy) for point in points]
    smallest = frontier.named(frontier.smallest)
    return line_chart(
        [*bars, Series(name="accuracy", points=means)],
        title="Accuracy over trainable parameters",
        y_label="accuracy, %",
        x_label="trainable parameters, thousands",
        marks=[(smallest.parameters / THOUSAND, "good enough")],
        y_low=min(100 * point.accuracy_interval[0] for point in points),
        x=log_axis(means[0][0], means[-1][0], start=MARGIN_LEFT, end=RIGHT),
    )


def table(frontier: FrontierRecord) -> Table:
    """Return a table of all classifiers, the smallest first."""
    return Table(
        caption="Classifiers by size",
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
        look="names",
    )
