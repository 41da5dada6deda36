"""Accuracy from a few rows of each class: ``python -m benchmarks.few_rows [--sets agnews,hwu64,r52] [--rows 8,64]``.

Rows are drawn from the training rows of each set, other ones in each draw, and MiniLM-L6 is trained on them by
``leantune train`` with nothing but a limit, and by SetFit where it is installed. Each run is a fresh process; seconds
are those of training, starts included. Results that are there are not made again. Prints a table and writes JSON and
Markdown into ``benchmarks/results/``.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.harness import Benchmark, Result, measured_by, page, table, whole_numbers, words
from benchmarks.inputs import Rows, read_rows, write_rows
from benchmarks.processes import output_of, train
from benchmarks.quality.data import SEED, SOURCES, files_of
from leantune.assets.download import resolve_location

BENCHMARK = Benchmark("few_rows", __doc__)
MODEL, MAX_LENGTH, LIMIT = "asset:minilm", 128, 130_000
"""The limit leaves about 100,000 numbers beside the head of 64 classes."""
TEST_ROWS = 2_000
OURS, SETFIT = "leantune", "SetFit"


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--sets", type=words, default=["agnews", "hwu64", "r52"])
    parser.add_argument("--rows", type=whole_numbers, default=[8, 64], help="in each class")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--max-minutes", type=float, default=60, help="start no run after this")
    parser.add_argument("--again", action="store_true", help="make results anew that are there")
    options = parser.parse_args()
    kept = [] if options.again else BENCHMARK.earlier(options.results).get("runs", [])
    result: dict[str, Any] = {**BENCHMARK.origin(), "runs": kept}
    systems = [OURS, SETFIT] if importlib.util.find_spec("setfit") else [OURS]
    if SETFIT not in systems:
        print("SetFit is not installed (pip install setfit) and left out")
    ended = time.monotonic() + 60 * options.max_minutes
    for draw, name, number, system in product(range(options.draws), options.sets, options.rows, systems):
        key = {"set": name, "rows": number, "draw": draw, "system": system}
        if any(key.items() <= each.items() for each in result["runs"]) or time.monotonic() > ended:
            continue
        result["runs"].append(key | run(name, number, draw, system))
        print(result["runs"][-1], flush=True)
        BENCHMARK.write(options.results, result, markdown_of(result))
    BENCHMARK.publish(options.results, result, markdown_of(result))


def run(name: str, rows_of_a_class: int, draw: int, system: str) -> dict[str, float]:
    """Accuracy on test rows, and seconds of training."""
    train_rows, test = (read_rows(path) for path in files_of(SOURCES[name]))
    chosen = of_each_class(train_rows, rows_of_a_class, random.Random(f"{SEED} {rows_of_a_class} {draw}"))
    random.Random(SEED).shuffle(test)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = {
            "train": write_rows(folder / "train.csv", chosen),
            "test": write_rows(folder / "test.csv", test[:TEST_ROWS]),
        }
        measure = by_leantune if system == OURS else by_setfit
        return measure(folder, files, draw)


def of_each_class(rows: Rows, number: int, rng: random.Random) -> Rows:
    """``number`` rows of each class, or all it has, in random order.

    >>> sorted(of_each_class([("x", "a"), ("y", "a"), ("z", "b")], 1, random.Random(0)))
    [('x', 'a'), ('z', 'b')]
    """
    by_label: dict[str, Rows] = defaultdict(list)
    for row in rng.sample(rows, len(rows)):
        by_label[row[1]].append(row)
    chosen = [row for label in sorted(by_label) for row in by_label[label][:number]]
    rng.shuffle(chosen)
    return chosen


def by_setfit(folder: Path, files: dict[str, Path], seed: int) -> dict[str, float]:
    """SetFit with the settings of its authors."""
    settings = {
        "adapter": "setfit",
        "model": resolve_location(MODEL),
        "max_length": MAX_LENGTH,
        "num_iterations": 20,
        "seed": seed,
        "files": {part: str(path) for part, path in files.items()},
    }
    (folder / "settings.json").write_text(json.dumps(settings), "utf-8")
    paths = [str(folder / each) for each in ("settings.json", "out.json")]
    output_of([sys.executable, "-m", "benchmarks.quality.peer", *paths])
    found = json.loads((folder / "out.json").read_text("utf-8"))
    return {"accuracy": found["metrics"]["test"]["accuracy"], "seconds": found["train_s"]}


def by_leantune(folder: Path, files: dict[str, Path], seed: int) -> dict[str, float]:
    """``leantune train`` with nothing but a limit."""
    keys = {"data": files["train"], "test": files["test"], "model": MODEL, "max_length": MAX_LENGTH}
    record = train(folder / "run", **keys, max_trainable_params=LIMIT, seed=seed)
    parts = ("tokenise_s", "probe_s", "gradient_start_s", "train_s")
    return {
        "accuracy": record["metrics"]["test"]["accuracy"],
        "probe": record["baseline"]["test"]["accuracy"],
        "seconds": sum(record["timings"].get(part, 0) for part in parts),
        "epochs": record["recipe"]["epochs"],
    }


def markdown_of(result: Result) -> str:
    """A line a set and number of rows: mean accuracy over the draws, its standard deviation, and seconds."""
    runs: dict[tuple[str, int], dict[str, list[dict[str, float]]]] = {}
    for each in result["runs"]:
        runs.setdefault((each["set"], each["rows"]), {}).setdefault(each["system"], []).append(each)
    lines = []
    for (name, number), systems in sorted(runs.items()):
        ours, theirs = systems.get(OURS, []), systems.get(SETFIT, [])
        spreads = (_spread(ours, "accuracy"), _spread(theirs, "accuracy"), _spread(ours, "probe"))
        lines.append([name, str(number), *spreads, _seconds(ours), _seconds(theirs)])
    seconds = ["seconds, leantune", "SetFit"]
    return page(
        "From a few rows of each class",
        f"MiniLM-L6, at most {LIMIT:,} trainable parameters in leantune, all 22.7 million in SetFit; accuracy on "
        f"{TEST_ROWS:,} test rows in per cent: mean over draws of the rows, standard deviation, number of draws. "
        f"{measured_by(result, 'torch', 'transformers')}.",
        table(
            ["set", "rows a class", "leantune", "SetFit", "linear probe of leantune's start", *seconds], lines
        ),
    )


def _spread(runs: list[dict[str, float]], key: str) -> str:
    values = [100 * run[key] for run in runs]
    if not values:
        return ""
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread} ({len(values)})"


def _seconds(runs: list[dict[str, float]]) -> str:
    return f"{mean(run['seconds'] for run in runs):.0f}" if runs else ""


if __name__ == "__main__":
    main()
