"""Whether more rows give what was forecast: ``python -m benchmarks.learning_curve [--data agnews,r52] [--seeds 3]``.

Half of the training rows of each set is hidden. `leantune.questions.learning_curve` sees the other half and forecasts
the accuracy with all of them. Then a classifier is trained on all. Both are measured on the test rows. MiniLM-L6.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.quality.data import SOURCES, data_set, read_rows
from benchmarks.results_folder import (
    RESULTS,
    commands_of,
    earlier_result,
    machine_name,
    origin_of,
    stem_of,
    write_result,
)
from benchmarks.speed.inputs import write_rows
from leantune.assets.download import fetch
from leantune.config import Recipe, load_recipe
from leantune.evaluation.batches import predict_probabilities
from leantune.questions.learning_curve.compute import learning_curve
from leantune.training.build import prepare_run
from leantune.training.trial import on_rows, trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="agnews,r52,hwu64", help=f"of {', '.join(SOURCES)}")
    parser.add_argument("--seeds", type=int, default=3, help="drawings of the half that is seen")
    options = parser.parse_args()
    fetch(["minilm"])
    origin = origin_of("benchmarks.learning_curve")
    names, stem = options.data.split(","), stem_of("learning_curve", origin["hardware"])
    earlier = earlier_result(RESULTS, stem).get("forecasts", [])
    forecasts = [each for each in earlier if each["set"] not in names]
    for seed in range(options.seeds):
        for name in names:
            source = {key: origin[key] for key in ("commit", "command")}
            forecasts.append({"set": name, "seed": seed, **source, **measured(name, seed)})
            text = markdown_of(origin, forecasts)
            write_result(RESULTS, stem, {**origin, "forecasts": forecasts}, text)
    print(text)


def measured(name: str, seed: int) -> dict[str, Any]:
    data, console = data_set(name), Console(stderr=True)
    rows = read_rows(data.file("train"))
    labels = sorted({label for _, label in rows})  # the half may lack one
    seen = np.random.default_rng(seed).permutation(len(rows))[: len(rows) // 2]
    with tempfile.TemporaryDirectory() as folder:
        half = write_rows(Path(folder) / "half.csv", [rows[i] for i in np.sort(seen)])
        curve = learning_curve(
            recipe_of(half, data.file("test"), f"{folder}/run", seed, labels),
            console=console,
            on_point=lambda point: console.print(
                f"{name}: {point.rows:,} rows: {100 * point.accuracy:.2f} %"
            ),
        )
        forecast = curve.forecast(len(rows))
        whole = recipe_of(data.file("train"), data.file("test"), f"{folder}/run", seed, labels)
        run = prepare_run(whole, console=console, overwrite=False, resume=False)
        classifier = trained(on_rows(run, run.recipe, run.data.train))
        found = predict_probabilities(classifier, run.data.validation, 64).argmax(axis=1)
        accuracy = float((found == run.data.validation.label_ids).mean())
    console.print(f"{name}: forecast {100 * forecast.accuracy:.2f} %, found {100 * accuracy:.2f} %")
    return {
        "rows": len(rows),
        "points": [[point.rows, point.accuracy] for point in curve.points],
        "forecast": forecast.accuracy,
        "low": forecast.low,
        "high": forecast.high,
        "found": accuracy,
    }


def recipe_of(data: Path, held_out: Path, output: str, seed: int, labels: list[str]) -> Recipe:
    keys = {"model": "asset:minilm", "max_length": "128", "max_trainable_params": "300000", "seed": str(seed)}
    files = {"data": str(data), "validation": str(held_out), "output": output}
    return load_recipe(None, {**keys, **files, "labels": ",".join(labels)})


def markdown_of(origin: dict[str, Any], forecasts: list[dict[str, Any]]) -> str:
    inside = sum(each["low"] <= each["found"] <= each["high"] for each in forecasts)
    errors = [abs(each["found"] - each["forecast"]) for each in forecasts]
    lines = [
        "# Forecasts of learning curves",
        "",
        f"Half of the rows is seen, the accuracy with all is forecast; MiniLM-L6. {inside} of {len(forecasts)} are "
        f"inside the 90 % interval; the mean error is {100 * np.mean(errors):.1f} points. {commands_of(forecasts)} on "
        f"{machine_name(origin['hardware'])}, {origin['date']}.",
        "",
        "| set | drawing | rows seen | with half | forecast with all | 90 % interval | found | inside |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for each in sorted(forecasts, key=lambda each: each["set"]):
        seen, with_half = each["points"][-1]
        within = "yes" if each["low"] <= each["found"] <= each["high"] else "no"
        cells = [
            each["set"],
            f"{each['seed'] + 1}",
            f"{seen:,}",
            f"{100 * with_half:.1f} %",
            f"{100 * each['forecast']:.1f} %",
            f"{100 * each['low']:.1f} to {100 * each['high']:.1f}",
            f"{100 * each['found']:.1f} %",
            within,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
