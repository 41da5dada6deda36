"""Whether more rows give what was forecast: ``python -m benchmarks.learning_curve [--data agnews,r52] [--seeds 3]``.

Half of the training rows of each set is hidden. `leantune.questions.learning_curve` sees the other half and forecasts
the accuracy with all of them. Then a classifier is trained on all. Both are measured on the test rows. MiniLM-L6.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.harness import Benchmark, Result, commands_of, machine_and_day, page, percent, table, words
from benchmarks.inputs import read_rows, write_rows
from benchmarks.quality.data import SOURCES, data_set
from leantune.assets.download import fetch
from leantune.config import Recipe, load_recipe
from leantune.evaluation.batches import predict_probabilities
from leantune.questions.learning_curve.compute import learning_curve
from leantune.training.build import prepare_run
from leantune.training.trial import on_rows, trained

BENCHMARK = Benchmark("learning_curve", __doc__)


def main() -> None:
    parser = BENCHMARK.parser()
    default = ["agnews", "r52", "hwu64"]
    parser.add_argument("--data", type=words, default=default, help=f"some of {', '.join(SOURCES)}")
    parser.add_argument("--seeds", type=int, default=3, help="drawings of the half that is seen")
    options = parser.parse_args()
    fetch(["minilm"])
    origin = BENCHMARK.origin()
    earlier = BENCHMARK.earlier(options.results).get("forecasts", [])
    result = {**origin, "forecasts": [each for each in earlier if each["set"] not in options.data]}
    source = {key: origin[key] for key in ("commit", "command")}
    for seed in range(options.seeds):
        for name in options.data:
            result["forecasts"].append({"set": name, "seed": seed, **source, **measured(name, seed)})
            BENCHMARK.publish(options.results, result, markdown_of(result))


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


def is_inside(forecast: dict[str, Any]) -> bool:
    """Whether its interval has what was found."""
    return forecast["low"] <= forecast["found"] <= forecast["high"]


def markdown_of(result: Result) -> str:
    forecasts = result["forecasts"]
    errors = [abs(each["found"] - each["forecast"]) for each in forecasts]
    lines = []
    for each in sorted(forecasts, key=lambda each: each["set"]):
        seen, with_half = each["points"][-1]
        interval = f"{100 * each['low']:.1f} to {100 * each['high']:.1f}"
        rates = (percent(with_half), percent(each["forecast"]), interval, percent(each["found"]))
        within = "yes" if is_inside(each) else "no"
        lines.append([each["set"], str(each["seed"] + 1), f"{seen:,}", *rates, within])
    rates = ["with half", "forecast with all", "90 % interval", "found"]
    return page(
        "Forecasts of learning curves",
        f"Half of the rows is seen, the accuracy with all is forecast; MiniLM-L6. {sum(map(is_inside, forecasts))} of "
        f"{len(forecasts)} are inside the 90 % interval; the mean error is {100 * np.mean(errors):.1f} points. "
        f"{commands_of(forecasts)} on {machine_and_day(result)}.",
        table(["set", "drawing", "rows seen", *rates, "inside"], lines, right=range(1, 7)),
    )


if __name__ == "__main__":
    main()
