"""Whether a frontier is right: ``python -m benchmarks.frontier [--data agnews,r52] [--budgets 5]``.

For each set `leantune.questions.frontier` measures classifiers of many sizes from one run. Then a run of its own is
trained at some of these sizes, and measured on the same validation rows. MiniLM-L6, 4,000 training and 1,000 validation
rows.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.harness import (
    Benchmark,
    Result,
    commands_of,
    machine_and_day,
    page,
    percent,
    table,
    timed,
    words,
)
from benchmarks.quality.data import SOURCES, data_set
from leantune.assets.download import fetch
from leantune.config import load_recipe
from leantune.config.load import parse_overrides
from leantune.config.record.run import read_finished_record
from leantune.questions.frontier.compute import Point, frontier
from leantune.training.run import run_training

BENCHMARK = Benchmark("frontier", __doc__)


def main() -> None:
    parser = BENCHMARK.parser()
    default = ["agnews", "r52", "20news"]
    parser.add_argument("--data", type=words, default=default, help=f"some of {', '.join(SOURCES)}")
    parser.add_argument("--budgets", type=int, default=5, help="runs of their own")
    parser.add_argument("keys", nargs="*", help="recipe keys, as key=value")
    options = parser.parse_args()
    fetch(["minilm"])
    origin = BENCHMARK.origin()
    result = {**origin, "sets": BENCHMARK.earlier(options.results).get("sets", {})}
    for name in options.data:
        source = {key: origin[key] for key in ("commit", "command")}
        result["sets"][name] = {**source, **measured(name, options.budgets, parse_overrides(options.keys))}
        BENCHMARK.publish(options.results, result, markdown_of(result))


def measured(name: str, budgets: int, keys: dict[str, str]) -> dict[str, Any]:
    data, console = data_set(name), Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        files = {"data": str(data.file("train")), "validation": str(data.file("validation"))}
        defaults = {"model": "asset:minilm", "max_length": "128", "output": f"{folder}/run"}
        recipe = load_recipe(None, {**files, **defaults, **keys})
        found = frontier(recipe, console=console, on_point=lambda point: console.print(line_of(point)))
        trained = [point for point in found.points if point.recipe is not None]
        chosen = {round(at) for at in np.linspace(0, len(trained) - 1, budgets)} if budgets else set()
        alone = {}
        for position in sorted(chosen):
            point = trained[position]
            own = replace(point.recipe, output=f"{folder}/{position}")
            output, seconds = timed(lambda own=own: run_training(own, console=console))
            record = read_finished_record(output)
            assert record.metrics.validation is not None
            accuracy = record.metrics.validation.accuracy
            alone[point.name] = {"accuracy": accuracy, "seconds": seconds}
            console.print(f"{line_of(point)}; by itself {100 * accuracy:.2f} %")
    return {
        "points": [
            {
                **{key: getattr(point, key) for key in ("name", "parameters", "accuracy", "seconds")},
                "interval": asdict(point.interval),
                "alone": alone.get(point.name),
            }
            for point in found.points
        ],
        **{"smallest": found.smallest.name, "best": found.best.name},
        **{"seconds": found.seconds, "seconds_of_a_run": found.seconds_of_a_run},
    }


def line_of(point: Point) -> str:
    low, high = 100 * point.interval.low, 100 * point.interval.high
    return f"{point.name}: {point.parameters:,}, {100 * point.accuracy:.2f} % ({low:.1f} to {high:.1f})"


def markdown_of(result: Result) -> str:
    sets, in_short = result["sets"], []
    for name, found in sets.items():
        runs = found["seconds"] / found["seconds_of_a_run"]
        in_short.append(
            f"- {name}: {found['seconds']:.0f} s, {runs:.1f} times a run of the largest. Smallest within a standard "
            f"error of the best: {found['smallest']}."
        )
    measured = ["from the frontier", "trained by itself", "inside"]
    return page(
        "Frontiers and runs of their own",
        f"MiniLM-L6; 95 % intervals of the validation rows. {commands_of(sets.values())} on "
        f"{machine_and_day(result)}.",
        "\n".join(in_short),
        table(
            ["set", "classifier", "trainable parameters", *measured],
            (_row(name, point) for name, found in sets.items() for point in found["points"]),
            right=range(2, 5),
        ),
    )


def _row(name: str, point: dict[str, Any]) -> list[str]:
    low, high = point["interval"]["low"], point["interval"]["high"]
    own, inside = "", ""
    if point["alone"]:
        own = percent(point["alone"]["accuracy"])
        inside = "yes" if low <= point["alone"]["accuracy"] <= high else "no"
    interval = f"{percent(point['accuracy'])} ({100 * low:.1f} to {100 * high:.1f})"
    return [name, point["name"], f"{point['parameters']:,}", interval, own, inside]


if __name__ == "__main__":
    main()
