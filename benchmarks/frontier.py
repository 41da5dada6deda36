"""Whether a frontier is right: ``python -m benchmarks.frontier [--data agnews,r52] [--budgets 5]``.

For each set `leantune.questions.frontier` measures classifiers of many sizes from one run. Then a run of its own is
trained at some of these sizes, and measured on the same validation rows. MiniLM-L6, 4,000 training and 1,000 validation
rows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.quality.data import SOURCES, data_set
from benchmarks.results_folder import (
    RESULTS,
    commands_of,
    earlier_result,
    machine_name,
    origin_of,
    stem_of,
    write_result,
)
from leantune.assets.download import fetch
from leantune.config import load_recipe
from leantune.config.record.run import FinishedRecord, read_record
from leantune.questions.frontier.compute import Frontier, Point, frontier
from leantune.training.run import run_training

DEFAULT_SETS = "agnews,r52,20news"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default=DEFAULT_SETS, help=f"of {', '.join(SOURCES)}")
    parser.add_argument("--budgets", type=int, default=5, help="runs of their own")
    parser.add_argument("keys", nargs="*", help="recipe keys, as key=value")
    options = parser.parse_args()
    fetch(["minilm"])
    keys = dict(word.split("=", 1) for word in options.keys)
    origin = origin_of("benchmarks.frontier")
    stem = stem_of("frontier", origin["hardware"])
    sets: dict[str, Any] = earlier_result(RESULTS, stem).get("sets", {})
    for name in options.data.split(","):
        source = {key: origin[key] for key in ("commit", "command")}
        sets[name] = {**source, **measured(name, options.budgets, keys)}
        text = markdown_of(origin, sets)
        write_result(RESULTS, stem, {**origin, "sets": sets}, text)
    print(text)


def measured(name: str, budgets: int, keys: dict[str, str]) -> dict[str, Any]:
    data, console = data_set(name), Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(
            None,
            {
                "data": str(data.file("train")),
                "validation": str(data.file("validation")),
                "model": "asset:minilm",
                "max_length": "128",
                "output": f"{folder}/run",
                **keys,
            },
        )
        found = frontier(recipe, console=console, on_point=lambda point: console.print(line_of(point)))
        trained = [point for point in found.points if point.recipe is not None]
        chosen = {round(at) for at in np.linspace(0, len(trained) - 1, budgets)} if budgets else set()
        alone = {}
        for position in sorted(chosen):
            point = trained[position]
            started = time.perf_counter()
            output = run_training(replace(point.recipe, output=f"{folder}/{position}"), console=console)
            record = read_record(Path(output), FinishedRecord)
            assert record.metrics.validation is not None
            accuracy = record.metrics.validation.accuracy
            alone[point.name] = {"accuracy": accuracy, "seconds": time.perf_counter() - started}
            console.print(f"{line_of(point)}; by itself {100 * accuracy:.2f} %")
    return as_json(found, alone)


def line_of(point: Point) -> str:
    low, high = 100 * point.interval.low, 100 * point.interval.high
    return f"{point.name}: {point.parameters:,}, {100 * point.accuracy:.2f} % ({low:.1f} to {high:.1f})"


def as_json(found: Frontier, alone: dict[str, Any]) -> dict[str, Any]:
    points = [
        {
            "name": point.name,
            "parameters": point.parameters,
            "accuracy": point.accuracy,
            "interval": asdict(point.interval),
            "seconds": point.seconds,
            "alone": alone.get(point.name),
        }
        for point in found.points
    ]
    return {
        "points": points,
        "smallest": found.smallest.name,
        "best": found.best.name,
        "seconds": found.seconds,
        "seconds_of_a_run": found.seconds_of_a_run,
    }


def markdown_of(origin: dict[str, Any], sets: dict[str, Any]) -> str:
    lines = [
        "# Frontiers and runs of their own",
        "",
        f"MiniLM-L6; 95 % intervals of the validation rows. {commands_of(sets.values())} on "
        f"{machine_name(origin['hardware'])}, {origin['date']}.",
        "",
    ]
    for name, found in sets.items():
        runs = found["seconds"] / found["seconds_of_a_run"]
        lines.append(
            f"- {name}: {found['seconds']:.0f} s, {runs:.1f} times a run of the largest. Smallest within a standard "
            f"error of the best: {found['smallest']}."
        )
    lines += [
        "",
        "| set | classifier | trainable parameters | from the frontier | trained by itself | inside |",
        "|---|---|---:|---:|---:|---|",
    ]
    lines += [_row(name, point) for name, found in sets.items() for point in found["points"]]
    return "\n".join(lines) + "\n"


def _row(name: str, point: dict[str, Any]) -> str:
    low, high = point["interval"]["low"], point["interval"]["high"]
    own, inside = "", ""
    if point["alone"]:
        own = f"{100 * point['alone']['accuracy']:.1f} %"
        inside = "yes" if low <= point["alone"]["accuracy"] <= high else "no"
    interval = f"{100 * point['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    return f"| {name} | {point['name']} | {point['parameters']:,} | {interval} | {own} | {inside} |"


if __name__ == "__main__":
    main()
