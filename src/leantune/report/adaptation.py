"""The parts of the page that say where the parameters are, and where the ranks went."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from leantune.report.charts import stacked_bar
from leantune.report.heat import heat_table
from leantune.report.markup import Html, disclosure, join, section, table, tag
from leantune.report.run_folder import Json, Run, final_or
from leantune.report.wording import ABSENT, count, percent

MAX_MOMENTS = 6
LAYER_NUMBER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Grid:
    """Adapted modules as a table of kinds (rows) by layers (columns)."""

    kinds: tuple[str, ...]
    layers: tuple[int | None, ...]
    """None stands for modules outside any numbered layer."""
    modules: tuple[tuple[str | None, ...], ...]
    """``modules[kind][layer]``: the module's name, or None where there is none."""


def grid_of(names: Iterable[str]) -> Grid:
    """Arrange module names by the first number in their path and by what comes after it."""
    places = {name: _place(name) for name in names}
    kinds = tuple(dict.fromkeys(kind for _, kind in places.values()))
    layers = tuple(sorted({layer for layer, _ in places.values()}, key=lambda n: -1 if n is None else n))
    at = {place: name for name, place in places.items()}
    modules = tuple(tuple(at.get((layer, kind)) for layer in layers) for kind in kinds)
    return Grid(_shorten(kinds), layers, modules)


def parameter_section(run: Run) -> Html:
    """The ledger: what the budget was spent on, and each module's share."""
    parameters = run.part("parameters")
    if not parameters:
        return Html("")
    figures = table(
        ["use", "at the start", "at the end"], _ledger(parameters), caption="Trainable parameters by use"
    )
    modules = parameters.get("modules") or []
    singular_value = 0 if run.part("recipe").get("method") == "lora" else 1
    per_module = table(
        ["module", "in", "out", "initial rank", "final rank", "initial parameters", "final parameters"],
        [_module_row(one, singular_value) for one in modules],
        caption="Ranks and parameters by module",
    )
    folded = disclosure(f"All {len(modules)} adapted modules", per_module) if modules else None
    return section("parameters", "Parameter ledger", _ledger_bar(parameters), figures, folded)


def rank_section(run: Run) -> Html:
    """Rank by layer and kind of module, at the end and on the way there."""
    moments = _spread(run.rank_moments())
    final = run.part("ranks") or _final_ranks(run.part("parameters"))
    if not final and not moments:
        return Html("")
    when = "at the end" if final else f"at step {count(moments[-1][0])}"
    latest = final or moments[-1][1]
    everywhere = [latest, *(ranks for _, ranks in moments)]
    grid = grid_of(dict.fromkeys(name for ranks in everywhere for name in ranks))
    highest = max(max(ranks.values(), default=0) for ranks in everywhere)
    at_end = _rank_table(grid, latest, highest, caption=f"Rank {when}, kind of module by layer")
    on_the_way = [
        tag("figure", _rank_table(grid, ranks, highest, caption=f"Step {count(step)}", is_compact=True))
        for step, ranks in moments
    ]
    way = join([tag("h3", "On the way"), tag("div", *on_the_way, class_="moments")]) if moments else None
    note = (
        f"The stronger the colour, the higher the rank, up to {highest}. A module of rank 0 is gone from "
        "the model."
    )
    return section("ranks", "Ranks", tag("p", note), at_end, way)


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


def _ledger_bar(parameters: Json) -> Html:
    head, adapters = parameters["head"], parameters["adapters"]
    final = final_or(parameters, "adapters_final", adapters)
    freed = adapters - final
    total = max(parameters.get("budget") or 0, parameters["initial"], 1)
    title = f"Head {count(head)}, adapters at the end {count(final)}, freed by pruning {count(freed)}"
    parts = [("head", "head"), ("main", "adapters"), ("freed", "freed by pruning"), ("rest", "unused budget")]
    legend = join(tag("li", tag("span", class_=f"key {name}"), text) for name, text in parts)
    bar = stacked_bar([("head", head), ("main", final), ("freed", freed)], total=total, title=title)
    return tag("figure", bar, tag("ul", legend, class_="legend"))


def _ledger(parameters: Json) -> list[list[object]]:
    head, initial, final = parameters["head"], parameters["initial"], parameters.get("final")
    rows: list[list[object]] = [
        ["head", count(head), count(head)],
        ["adapters", count(parameters["adapters"]), count(parameters.get("adapters_final"))],
        ["trainable", count(initial), count(final)],
    ]
    if budget := parameters.get("budget"):
        used = None if final is None else final / budget
        rows.append(["budget", count(budget), count(budget)])
        rows.append(["budget used", percent(initial / budget), percent(used)])
    return rows


def _module_row(module: Json, singular_value: int) -> list[object]:
    inputs, outputs = module["in_features"], module["out_features"]
    initial, final = module["initial_rank"], module.get("final_rank")
    # A triplet is a row of A, a column of B and, in AdaLoRA, one singular value.
    of_triplet = inputs + outputs + singular_value
    return [
        module["name"],
        count(inputs),
        count(outputs),
        initial,
        ABSENT if final is None else final,
        count(initial * of_triplet),
        count(None if final is None else final * of_triplet),
    ]


def _final_ranks(parameters: Json) -> dict[str, int]:
    modules = parameters.get("modules") or []
    return {one["name"]: one["final_rank"] for one in modules if one.get("final_rank") is not None}


def _spread(moments: list[tuple[int, Mapping[str, int]]]) -> list[tuple[int, Mapping[str, int]]]:
    """At most MAX_MOMENTS of the moments, evenly spaced, with the first and the last."""
    if len(moments) <= MAX_MOMENTS:
        return moments
    last = len(moments) - 1
    return [moments[round(i * last / (MAX_MOMENTS - 1))] for i in range(MAX_MOMENTS)]


def _rank_table(
    grid: Grid, ranks: Mapping[str, int], highest: int, *, caption: str, is_compact: bool = False
) -> Html:
    # A pruned module that is not named any more has rank 0.
    values = [[None if name is None else ranks.get(name, 0) for name in row] for row in grid.modules]

    def heat_of(i: int, j: int) -> float:
        return (values[i][j] or 0) / max(1, highest)

    return heat_table(
        grid.kinds,
        [ABSENT if layer is None else str(layer) for layer in grid.layers],
        values,
        heat_of,
        caption=caption,
        corner="layer \N{RIGHTWARDS ARROW}",
        is_compact=is_compact,
    )
