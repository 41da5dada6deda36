"""What the page shows, part by part: figures of a run, as tables and charts that ``templates/page.html`` sets.

A function gives None, or nothing, where the run has not written (yet) what its part is made of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from math import sqrt
from typing import Any

from leantune.config.run_record import (
    ArtefactsRecord,
    CheckpointRecord,
    Measures,
    ModuleRecord,
    ParametersRecord,
    RowsRecord,
    SelectedRecord,
    to_json,
)
from leantune.report.charts import (
    Bar,
    Estimate,
    IntervalChart,
    LineChart,
    Point,
    Series,
    interval_chart,
    line_chart,
    stacked_bar,
)
from leantune.report.run_folder import Event, Run
from leantune.report.wording import (
    ABSENT,
    count,
    gibibytes,
    percent,
    percent_range,
    shortened,
    significant,
    words,
)

MAX_CLASSES_WITH_NUMBERS = 20
MAX_CLASSES_DRAWN = 60
MAX_LABEL_ACROSS = 8
"""Characters of a class that head a column; longer ones stand upright."""
MAX_CONFUSIONS_LISTED = 12
MAX_MOMENTS = 6
MAX_STEPS_LISTED = 40
SMOOTHED_FROM = 40
"""Logged losses from which on their running mean is drawn, and they themselves only thinly."""
LAYER_NUMBER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of which the first column names the row, and figures from `numeric_from` on."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    numeric_from: int = 1
    look: str | None = None
    """CSS class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatTable:
    """Whole numbers in cells that are shaded by them."""

    caption: str
    corner: str = ""
    """What rows and columns are."""
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[int, float] | None]]]
    """Name of a row; of each cell value and shade, from 0 to 1, or None where it is empty."""
    is_compact: bool = False
    """Small squares without labels; each value is in the cell's tooltip."""
    look: str = ""


@dataclass(frozen=True, slots=True)
class Grid:
    """Adapted modules as a table of kinds (rows) by layers (columns)."""

    kinds: tuple[str, ...]
    layers: tuple[int | None, ...]
    """None stands for modules outside any numbered layer."""
    modules: tuple[tuple[str | None, ...], ...]
    """``modules[kind][layer]``: the module's name, or None where there is none."""


def final_metrics(run: Run) -> tuple[str, Measures] | None:
    """The split that speaks for the run, and its metrics: test, else validation; None before both."""
    metrics = run.record.metrics
    if metrics and metrics.test:
        return "test", metrics.test
    return ("validation", metrics.validation) if metrics and metrics.validation else None


def baseline_on(run: Run, split: str) -> Measures | None:
    """The linear probe on the rows of a split."""
    measures: Measures | None = getattr(run.record.baseline, split, None)
    return measures


def validation_caveat(run: Run) -> str:
    """What the figures on validation rows are worth, where there are no test rows."""
    if run.record.refit:
        return (
            "Measured before the refit, on rows that chose the checkpoint and that the published model was then "
            "trained on, too: it was measured on no row that it has not seen."
        )
    return "The checkpoint was chosen on these rows, so the figures are optimistic: there was no test set."


def accuracy_chart(run: Run, split: str, metrics: Measures) -> IntervalChart | None:
    """Accuracy beside the baseline's."""
    estimates = [_estimate("leantune", metrics, is_main=True)]
    if (probe := baseline_on(run, split)) and run.record.baseline:
        estimates.append(_estimate(run.record.baseline.name, probe))
    return interval_chart(
        estimates,
        title=f"{split.capitalize()} accuracy",
        x_label=f"{split} accuracy, % (line: 95 % interval)",
    )


def budget_bar(parameters: ParametersRecord) -> Bar:
    """Trainable parameters at the end and what pruning freed, of the budget."""
    initial, final = parameters.initial, parameters.final
    left = initial if final is None else final
    when = "so far" if final is None else "at the end"
    return stacked_bar(
        [("main", left), ("freed", initial - left)],
        total=max(parameters.budget or 0, initial, 1),
        title=f"{count(left)} trainable parameters {when}, {count(initial)} at the start",
    )


def ledger_bar(parameters: ParametersRecord) -> Bar:
    """What the budget was spent on."""
    head, adapters = parameters.head, parameters.adapters
    final = adapters if parameters.adapters_final is None else parameters.adapters_final
    freed = adapters - final
    return stacked_bar(
        [("head", head), ("main", final), ("freed", freed)],
        total=max(parameters.budget or 0, parameters.initial, 1),
        title=f"Head {count(head)}, adapters at the end {count(final)}, freed by pruning {count(freed)}",
    )


def ledger(parameters: ParametersRecord) -> Table:
    """Trainable parameters by use, at both ends of the run."""
    head, initial, final = parameters.head, parameters.initial, parameters.final
    rows = [
        ["head", count(head), count(head)],
        ["adapters", count(parameters.adapters), count(parameters.adapters_final)],
        ["trainable", count(initial), count(final)],
    ]
    if budget := parameters.budget:
        used = None if final is None else final / budget
        rows.append(["budget", count(budget), count(budget)])
        rows.append(["budget used", percent(initial / budget), percent(used)])
    return Table(
        caption="Trainable parameters by use", headings=["use", "at the start", "at the end"], rows=rows
    )


def modules(run: Run, parameters: ParametersRecord) -> Table:
    """Each module's share of the parameters."""
    # a triplet is a row of A, a column of B and, in AdaLoRA, one singular value
    singular_value = 0 if (run.record.recipe or {}).get("method") == "lora" else 1

    def row(one: ModuleRecord) -> list[object]:
        of_triplet = one.in_features + one.out_features + singular_value
        final = one.final_rank
        return [
            one.name,
            count(one.in_features),
            count(one.out_features),
            one.initial_rank,
            ABSENT if final is None else final,
            count(one.initial_rank * of_triplet),
            count(None if final is None else final * of_triplet),
        ]

    return Table(
        caption="Ranks and parameters by module",
        headings=[
            "module",
            "in",
            "out",
            "initial rank",
            "final rank",
            "initial parameters",
            "final parameters",
        ],
        rows=[row(one) for one in parameters.modules],
    )


def curves(run: Run) -> list[LineChart]:
    """Task loss, orthogonality, learning rate and rank budget, each on its own axes, by step."""
    by_parameters = (run.record.recipe or {}).get("allocation") == "parameters"
    penalty = _points(run.steps, "orthogonality")
    charts = [
        line_chart(
            [*_losses(run), Series(name="validation", points=_validation_losses(run), look="dots")],
            title="Task loss by step, without the orthogonality penalty",
            y_label="task loss, nats",
        ),
        line_chart(
            [Series(name="orthogonality", points=penalty if any(value for _, value in penalty) else [])],
            title="Orthogonality penalty by step, before its weight",
            y_label="orthogonality penalty (0: orthonormal)",
        ),
        line_chart(
            [Series(name="learning rate", points=_points(run.steps, "learning_rate"))],
            title="Learning rate by step",
            y_label="learning rate",
        ),
        line_chart(
            [
                Series(name="budget", points=_points(run.steps, "budget"), look="dashed"),
                Series(name="live", points=_points(run.steps, "spent")),
            ],
            title="Budget and what lives by step",
            y_label="adapter parameters" if by_parameters else "triplets, all modules",
            marks=_schedule_marks(run),
        ),
    ]
    return [chart for chart in charts if chart]


def logged_steps(run: Run) -> Table:
    """At most MAX_STEPS_LISTED of the steps in figures."""
    stride = -(-len(run.steps) // MAX_STEPS_LISTED)
    shown = [*run.steps[:-1:stride], run.steps[-1]]
    keys = ("loss", "orthogonality", "learning_rate", "budget", "spent", "live_triplets", "tokens_per_s")
    present = [key for key in keys if any(getattr(event, key) for event in shown)]
    return Table(
        caption=f"{len(shown)} of {len(run.steps)} logged steps",
        headings=["step", *(words(key).replace("per s", "per second") for key in present)],
        rows=[[count(one.step), *(_figure(getattr(one, key)) for key in present)] for one in shown],
    )


def running_mean(points: Sequence[Point], reach: int) -> list[Point]:
    """The mean of each value with the `reach` values on either side, of fewer at the ends."""
    sums = [0.0, *accumulate(y for _, y in points)]
    means = []
    for i, (x, _) in enumerate(points):
        first, after = max(0, i - reach), min(len(points), i + reach + 1)
        means.append((x, (sums[after] - sums[first]) / (after - first)))
    return means


def rank_maps(run: Run) -> tuple[int, HeatTable, list[HeatTable]] | None:
    """The highest rank; rank by layer and kind of module at the end, and on the way there."""
    moments = _spread(run.rank_moments())
    parameters = run.record.parameters
    final = run.record.ranks or {
        one.name: one.final_rank
        for one in (parameters.modules if parameters else ())
        if one.final_rank is not None
    }
    if not final and not moments:
        return None
    when = "at the end" if final else f"at step {count(moments[-1][0])}"
    latest = final or moments[-1][1]
    everywhere = [latest, *(ranks for _, ranks in moments)]
    grid = grid_of(dict.fromkeys(name for ranks in everywhere for name in ranks))
    highest = max(max(ranks.values(), default=0) for ranks in everywhere)
    at_end = _rank_map(grid, latest, highest, caption=f"Rank {when}, kind of module by layer")
    on_the_way = [
        _rank_map(grid, ranks, highest, caption=f"Step {count(step)}", is_compact=True)
        for step, ranks in moments
    ]
    return highest, at_end, on_the_way


def grid_of(names: Iterable[str]) -> Grid:
    """Arrange module names by the first number in their path and by what comes after it."""
    places = {name: _place(name) for name in names}
    kinds = tuple(dict.fromkeys(kind for _, kind in places.values()))
    layers = tuple(sorted({layer for layer, _ in places.values()}, key=lambda n: -1 if n is None else n))
    at = {place: name for name, place in places.items()}
    return Grid(
        _shorten(kinds), layers, tuple(tuple(at.get((layer, kind)) for layer in layers) for kind in kinds)
    )


def checkpoint_chart(run: Run) -> IntervalChart | None:
    """Validation accuracy by checkpoint."""
    selected = run.record.selected
    return interval_chart(
        [
            _estimate(
                f"step {count(one.step)}, epoch {significant(one.epoch)}",
                one.validation,
                is_main=_is_selected(one, selected),
            )
            for one in run.checkpoints
        ],
        title="Validation accuracy by checkpoint",
        x_label="validation accuracy, % (line: 95 % interval)",
    )


def checkpoints(run: Run) -> Table:
    """Validation metrics by checkpoint."""
    selected = run.record.selected

    def row(one: CheckpointRecord) -> list[str]:
        metrics = one.validation
        return [
            count(one.step),
            significant(one.epoch),
            percent(metrics.accuracy),
            percent_range(metrics.accuracy_interval),
            percent(metrics.macro_f1),
            significant(metrics.log_loss),
            percent(metrics.calibration_error),
            "selected" if _is_selected(one, selected) else "kept" if one.kept else "",
        ]

    return Table(
        caption="Validation metrics by checkpoint",
        headings=[
            "step",
            "epoch",
            "accuracy",
            "95 % interval",
            "macro F1",
            "log loss",
            "calibration error",
            "state",
        ],
        rows=[row(one) for one in run.checkpoints],
    )


def selection_finding(run: Run) -> str:
    """What the choice of the checkpoint is worth, and why it was this one where the chart alone does not say."""
    selected = run.record.selected
    if not selected or not selected.comparison:
        return ""
    found = [selected.comparison]
    if selected.rule == "one-se" and selected.metric != "log_loss":
        metric = selected.metric.replace("macro_f1", "macro F1")
        found.append(f"of those within one standard error of the best {metric}, the last was selected")
    return " ".join(text[:1].upper() + text[1:].removesuffix(".") + "." for text in found)


def classes(split: str, metrics: Measures) -> Table:
    """Rates of each class."""
    return Table(
        caption=f"Metrics by class, {split} rows",
        headings=["class", "precision", "recall", "F1", "rows"],
        rows=[
            [
                shortened(one.label),
                percent(one.precision),
                percent(one.recall),
                percent(one.f1),
                count(one.support),
            ]
            for one in metrics.per_class
        ],
        look="names",
    )


def confusion_matrix(split: str, metrics: Measures) -> HeatTable | None:
    """Rows by true and predicted class; None where there are too many classes to draw."""
    labels = [shortened(one.label) for one in metrics.per_class]
    if len(labels) > MAX_CLASSES_DRAWN:
        return None
    counts: list[list[int | None]] = [[0] * len(labels) for _ in labels]
    for i, j, number in metrics.confusion or ():
        counts[i][j] = number
    return _heat_table(
        labels,
        labels,
        counts,
        # The root keeps rare confusions visible beside a full diagonal.
        lambda i, number: sqrt(number / max(1, metrics.per_class[i].support)),
        caption=f"Confusion matrix, {split} rows: true class by row, predicted class by column",
        corner="true \N{DOWNWARDS ARROW} predicted \N{RIGHTWARDS ARROW}",
        is_compact=len(labels) > MAX_CLASSES_WITH_NUMBERS,
        look="names tall" if max(map(len, labels)) > MAX_LABEL_ACROSS else "names",
    )


def confusions(split: str, metrics: Measures) -> Table:
    """The most frequent ones."""
    errors = [(number, i, j) for i, j, number in metrics.confusion or () if i != j]
    most = sorted(errors, key=lambda error: (-error[0], error[1:]))[:MAX_CONFUSIONS_LISTED]
    of = metrics.per_class
    return Table(
        caption=f"Most frequent confusions, {split} rows",
        headings=["true class", "predicted as", "rows", "of the true class"],
        rows=[
            [shortened(of[i].label), shortened(of[j].label), count(number), percent(number / of[i].support)]
            for number, i, j in most
        ],
        numeric_from=2,
        look="names",
    )


def splits(run: Run) -> Table | None:
    """Rows, tokens and truncation of each part of the data."""
    parts = run.record.data.parts() if run.record.data else {}
    if not parts:
        return None
    # counts that a later version adds appear by themselves
    numbers = [
        one.name
        for one in fields(RowsRecord)
        if any(isinstance(getattr(rows, one.name), int) for rows in parts.values())
    ]
    return Table(
        caption="Rows and tokens by split",
        headings=["quantity", *parts],
        rows=[
            *([words(key), *(_with_share(rows, key) for rows in parts.values())] for key in numbers),
            [
                "tokens per row",
                *(f"{rows.tokens / rows.rows:.1f}" if rows.rows else ABSENT for rows in parts.values()),
            ],
            ["source", *(rows.source for rows in parts.values())],
        ],
    )


def label_counts(run: Run) -> Table | None:
    """Rows by class and split."""
    parts = run.record.data.parts() if run.record.data else {}
    counts = {name: rows.label_counts for name, rows in parts.items() if rows.label_counts}
    if not counts:
        return None
    found = dict.fromkeys(label for each in counts.values() for label in each)
    return Table(
        caption="Rows by class and split",
        headings=["class", *counts],
        rows=[
            [label, *(count(each.get(label, 0)) for each in counts.values())]
            for label in (run.record.labels.names if run.record.labels else found)
        ],
    )


def artefacts(record: ArtefactsRecord) -> Table:
    """The folders that were written, each with how closely its logits match those of training."""
    return Table(
        caption="Compared with the trained model",
        headings=["folder", "largest difference of a logit"],
        rows=[
            ["adapter/", significant(record.adapter.max_logit_difference)],
            ["merged/", significant(record.merged.max_logit_difference)],
        ],
    )


def provenance(run: Run) -> dict[str, dict[str, Any]]:
    """Title of a list of facts -> name and value of each."""
    record = run.record
    hardware = to_json(record.hardware) or {}
    if "memory_bytes" in hardware:
        hardware["memory"] = gibibytes(hardware.pop("memory_bytes"))
    recipe = dict(record.recipe or {})
    advanced = recipe.pop("advanced", None)  # a run of 0.1.0 has all keys in one
    parts = {
        "Model": to_json(record.model),
        "Hardware": hardware,
        "Versions": record.versions,
        "Schedule": to_json(record.schedule),
        "Timings": record.timings,
        "Recipe": recipe,
        "Recipe, advanced": advanced if isinstance(advanced, dict) else None,
    }
    return {title: facts for title, facts in parts.items() if facts}


def _estimate(label: str, metrics: Measures, *, is_main: bool = False) -> Estimate:
    low, high = metrics.accuracy_interval
    return Estimate(label=label, value=metrics.accuracy, low=low, high=high, is_main=is_main)


def _is_selected(checkpoint: CheckpointRecord, selected: SelectedRecord | None) -> bool:
    return selected is not None and checkpoint.step == selected.step


def _points(events: Sequence[Event], key: str) -> list[Point]:
    return [(event.step, getattr(event, key)) for event in events if getattr(event, key) is not None]


def _losses(run: Run) -> Iterator[Series]:
    logged = _points(run.steps, "loss")
    if len(logged) < SMOOTHED_FROM:
        yield Series(name="training", points=logged)
    else:
        yield Series(name="training, as logged", points=logged, look="thin")
        yield Series(name="training", points=running_mean(logged, max(2, len(logged) // 50)))


def _validation_losses(run: Run) -> list[Point]:
    return [(one.step, one.validation.log_loss) for one in run.checkpoints]


def _schedule_marks(run: Run) -> Iterator[tuple[float, str]]:
    schedule = run.record.schedule
    if schedule and run.adapts_ranks:
        yield schedule.warmup_steps, "allocation starts"
        yield schedule.total_steps - schedule.final_steps, "ranks fixed"


def _figure(value: float | None) -> str:
    return count(value) if isinstance(value, int) or (value or 0) >= 1000 else significant(value)


def _place(name: str) -> tuple[int | None, str]:
    match = LAYER_NUMBER.search(name)
    return (int(match[1]), name[match.end() :]) if match else (None, name)


def _shorten(kinds: Sequence[str]) -> tuple[str, ...]:
    """The shortest ends that still tell the kinds apart: ``query``, ``attention.output.dense``."""

    def ends(kind: str) -> Iterable[str]:
        parts = kind.split(".")
        return (".".join(parts[-length:]) for length in range(1, len(parts) + 1))

    def is_alone(end: str) -> bool:
        return sum(f".{kind}".endswith(f".{end}") for kind in kinds) == 1

    return tuple(next((end for end in ends(kind) if is_alone(end)), kind) for kind in kinds)


def _spread(moments: list[tuple[int, Mapping[str, int]]]) -> list[tuple[int, Mapping[str, int]]]:
    """At most MAX_MOMENTS of the moments, evenly spaced, with the first and the last."""
    if len(moments) <= MAX_MOMENTS:
        return moments
    last = len(moments) - 1
    return [moments[round(i * last / (MAX_MOMENTS - 1))] for i in range(MAX_MOMENTS)]


def _rank_map(
    grid: Grid, ranks: Mapping[str, int], highest: int, *, caption: str, is_compact: bool = False
) -> HeatTable:
    return _heat_table(
        grid.kinds,
        [ABSENT if layer is None else str(layer) for layer in grid.layers],
        # A pruned module that is not named any more has rank 0.
        [[None if name is None else ranks.get(name, 0) for name in row] for row in grid.modules],
        lambda _, rank: rank / max(1, highest),
        caption=caption,
        corner="layer \N{RIGHTWARDS ARROW}",
        is_compact=is_compact,
    )


def _heat_table(
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    values: Sequence[Sequence[int | None]],
    heat_of: Callable[[int, int], float],
    **about: Any,
) -> HeatTable:
    """Shade values; ``heat_of(row, value)`` is from 0 to 1, a value None an empty cell."""
    return HeatTable(
        columns=column_labels,
        rows=[
            (label, [None if value is None else (value, heat_of(i, value)) for value in values[i]])
            for i, label in enumerate(row_labels)
        ],
        **about,
    )


def _with_share(rows: RowsRecord, key: str) -> str:
    value = getattr(rows, key)
    if key.endswith("_rows") and value and rows.rows:
        return f"{count(value)} ({percent(value / rows.rows)})"
    return count(value)
