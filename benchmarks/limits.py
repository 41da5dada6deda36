"""Accuracy by parameter limit: ``python -m benchmarks.limits [--sets agnews,r52]``.

MiniLM-L6 is trained on 2,000 training rows of each set by ``leantune train`` with nothing but a limit, from the
smallest head on, and measured on up to 2,000 test rows. Prints a table, and draws the plot of the docs.
"""

from __future__ import annotations

import random
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Benchmark, Result, measured_by, page, percent, table, words
from benchmarks.inputs import read_rows, write_rows
from benchmarks.processes import train
from benchmarks.quality.data import SEED, SOURCES, files_of
from leantune.config import recipe_of_run
from leantune.training.before.placement import name_of

BENCHMARK = Benchmark("limits", __doc__)
IMAGE = ROOT / "docs" / "images" / "accuracy-by-limit.svg"
LIMITS = {
    "agnews": (1_540, 2_400, 5_000, 10_000, 15_000, 20_000, 100_000, 300_000, 1_000_000),
    "hwu64": (10_000, 24_640, 26_000, 30_000, 35_000, 45_000, 120_000, 300_000, 1_000_000),
}
ROWS = 2_000


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--sets", type=words, default=list(LIMITS), help=f"some of {', '.join(LIMITS)}")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    result: dict[str, Any] = {
        **BENCHMARK.origin(),
        "runs": BENCHMARK.earlier(options.results).get("runs", []),
    }
    for seed, name in product(range(options.seeds), options.sets):
        for limit in LIMITS[name]:
            key = {"set": name, "limit": limit, "seed": seed}
            if not any(key.items() <= each.items() for each in result["runs"]):
                result["runs"].append(key | measured(name, limit, seed))
                BENCHMARK.write(options.results, result, markdown_of(result))
                print(result["runs"][-1], flush=True)
    BENCHMARK.publish(options.results, result, markdown_of(result))
    draw(result)


def measured(name: str, limit: int, seed: int) -> dict[str, Any]:
    rows, test = (read_rows(path) for path in files_of(SOURCES[name]))
    random.Random(f"{SEED} {seed}").shuffle(rows)
    random.Random(SEED).shuffle(test)
    known = {label for _, label in rows[:ROWS]}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        record = train(
            folder / "run",
            data=write_rows(folder / "train.csv", rows[:ROWS]),
            test=write_rows(folder / "test.csv", [row for row in test if row[1] in known][:ROWS]),
            model="asset:minilm",
            max_length=128,
            max_trainable_params=limit,
            seed=seed,
        )
    recipe = recipe_of_run(folder / "run", record["recipe"])
    rank = max((each["initial_rank"] for each in record["parameters"]["modules"]), default=0)
    return {
        "trained": name_of(recipe, rank),
        "parameters": record["parameters"]["initial"],
        "accuracy": record["metrics"]["test"]["accuracy"],
        "probe": record["baseline"]["test"]["accuracy"],
        "train_s": record["timings"]["train_s"],
    }


def points_of(result: Result) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """The runs by set and limit."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for each in sorted(result["runs"], key=lambda each: (each["set"], each["limit"])):
        found.setdefault((each["set"], each["limit"]), []).append(each)
    return found


def mean_of(runs: list[dict[str, Any]]) -> float:
    return sum(each["accuracy"] for each in runs) / len(runs)


def markdown_of(result: Result) -> str:
    lines = [
        [
            name,
            f"{limit:,}",
            f"{runs[0]['parameters']:,}",
            runs[0]["trained"],
            percent(mean_of(runs)),
            str(len(runs)),
        ]
        for (name, limit), runs in points_of(result).items()
    ]
    return page(
        "Accuracy by limit",
        f"MiniLM-L6, {ROWS:,} training rows, mean over seeds. {measured_by(result, 'torch', 'transformers')}.",
        table(["set", "limit", "parameters", "trained", "test accuracy", "seeds"], lines, right=(1, 2, 4, 5)),
    )


def draw(result: Result) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    points = points_of(result)
    for axis, name in zip(figure.subplots(1, len(LIMITS)), LIMITS, strict=True):
        own = {limit: 100 * mean_of(runs) for (each, limit), runs in points.items() if each == name}
        axis.plot(list(own), list(own.values()), marker="o", markersize=4, color="#1f6f54")
        axis.set(xscale="log", title=name, xlabel="limit on trainable parameters", ylabel="test accuracy, %")
        axis.grid(alpha=0.3)
    figure.savefig(IMAGE, metadata={"Date": None})


if __name__ == "__main__":
    main()
