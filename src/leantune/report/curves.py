"""The part of the page that shows the training step by step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from leantune.report.charts import Point, Series, line_chart
from leantune.report.markup import Html, disclosure, section, table, tag
from leantune.report.run_folder import Json, Run
from leantune.report.wording import count, significant

MAX_ROWS = 40
SMOOTHED_FROM = 40
"""Logged losses from which on their running mean is drawn, and they themselves only thinly."""


def curve_section(run: Run) -> Html:
    """Task loss, orthogonality, learning rate and rank budget, each on its own axes, by step."""
    charts = [_loss_chart(run), _orthogonality_chart(run), _learning_rate_chart(run), _rank_chart(run)]
    figures = [tag("figure", chart) for chart in charts if chart]
    if not figures:
        return Html("")
    skipped = run.record.get("skipped_steps")
    note = f"{count(skipped)} steps were skipped for gradients that were not finite." if skipped else None
    return section(
        "curves",
        "Training",
        tag("p", note) if note else None,
        tag("div", *figures, class_="charts"),
        disclosure("Logged steps as a table", _step_table(run)) if run.steps else None,
    )


def running_mean(points: Sequence[Point], reach: int) -> list[Point]:
    """The mean of each value with the `reach` values on either side, of fewer at the ends."""
    sums = [0.0, *accumulate(y for _, y in points)]
    means = []
    for i, (x, _) in enumerate(points):
        first, after = max(0, i - reach), min(len(points), i + reach + 1)
        means.append((x, (sums[after] - sums[first]) / (after - first)))
    return means


def _loss_chart(run: Run) -> Html | None:
    logged = _points(run.steps, "loss")
    series = [Series(name="training", points=logged)]
    if len(logged) >= SMOOTHED_FROM:
        smooth = running_mean(logged, max(2, len(logged) // 50))
        series = [
            Series(name="training, as logged", points=logged, look="thin"),
            Series(name="training", points=smooth),
        ]
    evaluated = [
        (one["step"], one["validation"]["log_loss"]) for one in run.checkpoints() if one.get("validation")
    ]
    series.append(Series(name="validation", points=evaluated, look="dots"))
    return line_chart(
        series, title="Task loss by step, without the orthogonality penalty", y_label="task loss, nats"
    )


def _orthogonality_chart(run: Run) -> Html | None:
    points = _points(run.steps, "orthogonality")
    if not any(value for _, value in points):
        return None  # a run without the penalty
    return line_chart(
        [Series(name="orthogonality", points=points)],
        title="Orthogonality penalty by step, before its weight",
        y_label="orthogonality penalty (0: orthonormal)",
    )


def _learning_rate_chart(run: Run) -> Html | None:
    return line_chart(
        [Series(name="learning rate", points=_points(run.steps, "learning_rate"))],
        title="Learning rate by step",
        y_label="learning rate",
    )


def _rank_chart(run: Run) -> Html | None:
    schedule = run.part("schedule")
    by_parameters = run.part("recipe").get("allocation") == "parameters"
    unit = "adapter parameters" if by_parameters else "triplets, all modules"
    marks = []
    if run.adapts_ranks:
        marks = [
            (schedule["warmup_steps"], "allocation starts"),
            (schedule["total_steps"] - schedule["final_steps"], "ranks fixed"),
        ]
    return line_chart(
        [
            Series(name="budget", points=_points(run.steps, "budget"), look="dashed"),
            Series(name="live", points=_points(run.steps, "spent")),
        ],
        title="Budget and what lives by step",
        y_label=unit,
        marks=marks,
    )


def _points(events: Sequence[Json], key: str) -> list[Point]:
    return [(event["step"], event[key]) for event in events if event.get(key) is not None]


def _step_table(run: Run) -> Html:
    stride = -(-len(run.steps) // MAX_ROWS)
    shown = [*run.steps[:-1:stride], run.steps[-1]]
    keys = ("loss", "orthogonality", "learning_rate", "budget", "spent", "live_triplets", "tokens_per_s")
    present = [key for key in keys if any(event.get(key) for event in shown)]
    return table(
        ["step", *(key.replace("_", " ").replace("per s", "per second") for key in present)],
        [[count(event["step"]), *(_figure(event.get(key)) for key in present)] for event in shown],
        caption=f"{len(shown)} of {len(run.steps)} logged steps",
    )


def _figure(value: float | None) -> str:
    return count(value) if isinstance(value, int) or (value or 0) >= 1000 else significant(value)
