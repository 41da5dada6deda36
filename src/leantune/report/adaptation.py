"""Tables and charts of the adaptation: parameters, ranks by layer and step, and training curves.

Functions return None or an empty result if the run has not written the data they need.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from leantune.config.record.run import (
    ModuleRecord,
    ParametersRecord,
)
from leantune.report.charts import (
    Bar,
    LineChart,
    Point,
    Series,
    line_chart,
    stacked_bar,
)
from leantune.report.run_folder import Event, Run
from leantune.report.tables import HeatTable, Table, figure, heat_table
from leantune.report.wording import (
    ABSENT,
    count,
    percent,
    words,
)

LAYER_NUMBER = re.compile(r"\.(\d+)\.")


SMOOTHED_FROM = 40
"""Number of logged losses above which the chart shows their running mean and draws the losses as a thin line."""


MAX_STEPS_LISTED = 40


MAX_MOMENTS = 6


@dataclass(frozen=True, slots=True)
class Grid:
    """Adapted modules arranged by kind (rows) and layer (columns)."""

    kinds: tuple[str, ...]
    layers: tuple[int | None, ...]
    """Layer numbers in ascending order. None stands for modules outside any numbered layer and comes first."""
    modules: tuple[tuple[str | None, ...], ...]
    """Module names by kind and layer. None marks a combination without a module."""


def budget_bar(parameters: ParametersRecord) -> Bar:
    """Return a bar of the budget: remaining trainable parameters and parameters freed by pruning."""
    initial, final = parameters.initial, parameters.final
    left = initial if final is None else final
    when = "so far" if final is None else "at the end"
    return stacked_bar(
        [("main", left), ("freed", initial - left)],
        total=max(parameters.budget or 0, initial, 1),
        title=f"{count(left)} trainable parameters {when}, {count(initial)} at the start",
    )


def ledger_bar(parameters: ParametersRecord) -> Bar:
    """Return a bar of the budget: head, adapters and parameters freed by pruning."""
    head, adapters = parameters.head, parameters.adapters
    final = adapters if parameters.adapters_final is None else parameters.adapters_final
    freed = adapters - final
    return stacked_bar(
        [("head", head), ("main", final), ("freed", freed)],
        total=max(parameters.budget or 0, parameters.initial, 1),
        title=f"Head {count(head)}, adapters at the end {count(final)}, freed by pruning {count(freed)}",
    )


def ledger(parameters: ParametersRecord) -> Table:
    """Return a table of trainable parameters by use, at the start and at the end of the run."""
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
    """Return a table of ranks and parameter counts by module."""
    # A triplet is a row of A, a column of B and, in AdaLoRA, one singular value.
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
    """Return charts of task loss, orthogonality penalty, learning rate and rank budget by step."""
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
            title="Budget and its use by step",
            y_label="adapter parameters" if by_parameters else "triplets, all modules",
            marks=_schedule_marks(run),
        ),
    ]
    return [chart for chart in charts if chart]


def logged_steps(run: Run) -> Table:
    """Return a table of at most MAX_STEPS_LISTED evenly spaced steps and the last one."""
    stride = -(-len(run.steps) // MAX_STEPS_LISTED)
    shown = [*run.steps[:-1:stride], run.steps[-1]]
    keys = ("loss", "orthogonality", "learning_rate", "budget", "spent", "live_triplets", "tokens_per_s")
    present = [key for key in keys if any(getattr(event, key) for event in shown)]
    return Table(
        caption=f"{len(shown)} of {len(run.steps)} logged steps",
        headings=["step", *(words(key).replace("per s", "per second") for key in present)],
        rows=[[count(one.step), *(figure(getattr(one, key)) for key in present)] for one in shown],
    )


def running_mean(points: Sequence[Point], reach: int) -> list[Point]:
    """Return the running mean of the y values over a window of ``2 * reach + 1`` points, shorter at both ends."""
    sums = [0.0, *accumulate(y for _, y in points)]
    means = []
    for i, (x, _) in enumerate(points):
        first, after = max(0, i - reach), min(len(points), i + reach + 1)
        means.append((x, (sums[after] - sums[first]) / (after - first)))
    return means


def rank_maps(run: Run) -> tuple[int, HeatTable, list[HeatTable]] | None:
    """Return the highest rank, the map of final ranks by layer and kind of module, and maps of earlier steps."""
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
    """Arrange module names by the first number in their path (layer) and the rest of the path (kind)."""
    places = {name: _place(name) for name in names}
    kinds = tuple(dict.fromkeys(kind for _, kind in places.values()))
    layers = tuple(sorted({layer for layer, _ in places.values()}, key=lambda n: -1 if n is None else n))
    at = {place: name for name, place in places.items()}
    return Grid(
        _shorten(kinds), layers, tuple(tuple(at.get((layer, kind)) for layer in layers) for kind in kinds)
    )


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
    return [(one.step, one.validation.log_loss) for one in run.checkpoints if one.validation]


def _schedule_marks(run: Run) -> Iterator[tuple[float, str]]:
    schedule = run.record.schedule
    if schedule and run.adapts_ranks:
        yield schedule.warmup_steps, "allocation starts"
        yield schedule.total_steps - schedule.final_steps, "ranks fixed"


def _place(name: str) -> tuple[int | None, str]:
    match = LAYER_NUMBER.search(name)
    return (int(match[1]), name[match.end() :]) if match else (None, name)


def _shorten(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the shortest unique suffix of each kind: ``query``, ``attention.output.dense``."""

    def ends(kind: str) -> Iterable[str]:
        parts = kind.split(".")
        return (".".join(parts[-length:]) for length in range(1, len(parts) + 1))

    def is_alone(end: str) -> bool:
        return sum(f".{kind}".endswith(f".{end}") for kind in kinds) == 1

    return tuple(next((end for end in ends(kind) if is_alone(end)), kind) for kind in kinds)


def _spread(moments: list[tuple[int, Mapping[str, int]]]) -> list[tuple[int, Mapping[str, int]]]:
    """Return at most MAX_MOMENTS evenly spaced moments, including the first and the last."""
    if len(moments) <= MAX_MOMENTS:
        return moments
    last = len(moments) - 1
    return [moments[round(i * last / (MAX_MOMENTS - 1))] for i in range(MAX_MOMENTS)]


def _rank_map(
    grid: Grid, ranks: Mapping[str, int], highest: int, *, caption: str, is_compact: bool = False
) -> HeatTable:
    return heat_table(
        grid.kinds,
        [ABSENT if layer is None else str(layer) for layer in grid.layers],
        # A fully pruned module is missing from the ranks: its rank is 0.
        [[None if name is None else ranks.get(name, 0) for name in row] for row in grid.modules],
        lambda _, rank: rank / max(1, highest),
        caption=caption,
        corner="layer \N{RIGHTWARDS ARROW}",
        is_compact=is_compact,
    )
