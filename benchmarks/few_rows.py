"""Accuracy from a few rows of each class: ``python -m benchmarks.few_rows [--sets agnews,hwu64,r52] [--rows 8,64]``.

Rows are drawn from the training rows of each set, other ones in each draw, and MiniLM-L6 is trained on them by
``leantune train`` with nothing but a limit, and by SetFit where it is installed. Each run is a fresh process; seconds
are those of training, starts included. Results that are there are not made again. Prints a table and writes JSON and
Markdown into ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console

from benchmarks.quality.data import SEED, SOURCES, files_of, read_rows
from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result
from benchmarks.speed.inputs import Rows, write_rows
from leantune.assets.download import resolve_location

MODEL, MAX_LENGTH, LIMIT = "asset:minilm", 128, 130_000
"""The limit leaves about 100,000 numbers beside the head of 64 classes."""
TEST_ROWS = 2_000
OURS, SETFIT = "leantune", "SetFit"


def main() -> int:
    options = parse_options()
    console = Console()
    result: dict[str, Any] = {**origin_of("benchmarks.few_rows"), "runs": []}
    stem = stem_of("few_rows", result["hardware"])
    kept = RESULTS / f"{stem}.json"
    if kept.is_file() and not options.again:
        result["runs"] = json.loads(kept.read_text("utf-8"))["runs"]
    systems = [OURS, SETFIT] if importlib.util.find_spec("setfit") else [OURS]
    if SETFIT not in systems:
        console.print("SetFit is not installed (pip install setfit) and left out")
    ended = time.monotonic() + 60 * options.max_minutes
    for draw, name, rows_of_a_class, system in product(
        range(options.draws), options.sets, options.rows, systems
    ):
        key = {"set": name, "rows": rows_of_a_class, "draw": draw, "system": system}
        if any(key.items() <= each.items() for each in result["runs"]) or time.monotonic() > ended:
            continue
        result["runs"].append(key | run(name, rows_of_a_class, draw, system))
        console.print(result["runs"][-1])
        write_result(RESULTS, stem, result, markdown_of(result))
    console.print(markdown_of(result), highlight=False, soft_wrap=True)
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.few_rows",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sets", type=lambda text: text.split(","), default=["agnews", "hwu64", "r52"])
    parser.add_argument(
        "--rows",
        type=lambda text: [int(each) for each in text.split(",")],
        default=[8, 64],
        help="of each class",
    )
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--max-minutes", type=float, default=60, help="start no run after this")
    parser.add_argument("--again", action="store_true", help="make results anew that are there")
    return parser.parse_args()


def run(name: str, rows_of_a_class: int, draw: int, system: str) -> dict[str, float]:
    """Accuracy on test rows, and seconds of training."""
    train, test = (read_rows(path) for path in files_of(SOURCES[name]))
    chosen = of_each_class(train, rows_of_a_class, random.Random(f"{SEED} {rows_of_a_class} {draw}"))
    random.Random(SEED).shuffle(test)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = {
            "train": str(write_rows(folder / "train.csv", chosen)),
            "test": str(write_rows(folder / "test.csv", test[:TEST_ROWS])),
        }
        if system == OURS:
            return _leantune(folder, files, seed=draw)
        settings = {**files, "model": resolve_location(MODEL), "max_length": MAX_LENGTH, "seed": draw}
        (folder / "settings.json").write_text(json.dumps(settings), "utf-8")
        paths = [str(folder / each) for each in ("settings.json", "out.json")]
        subprocess.run([sys.executable, "-m", "benchmarks.peer.setfit_run", *paths], check=True)
        found: dict[str, float] = json.loads((folder / "out.json").read_text("utf-8"))
        return found


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


def _leantune(folder: Path, files: dict[str, str], *, seed: int) -> dict[str, float]:
    keys = {
        "data": files["train"],
        "test": files["test"],
        "model": MODEL,
        "output": folder / "run",
        "max_trainable_params": LIMIT,
        "max_length": MAX_LENGTH,
        "seed": seed,
    }
    words = [f"{key}={value}" for key, value in keys.items()]
    subprocess.run([sys.executable, "-m", "leantune.cli", "train", *words], check=True, capture_output=True)
    record = json.loads((folder / "run" / "record.json").read_text("utf-8"))
    timings = record["timings"]
    parts = ("tokenise_s", "probe_s", "gradient_start_s", "train_s")
    return {
        "accuracy": record["metrics"]["test"]["accuracy"],
        "probe": record["baseline"]["test"]["accuracy"],
        "seconds": sum(timings.get(part, 0) for part in parts),
        "epochs": record["recipe"]["epochs"],
    }


def markdown_of(result: dict[str, Any]) -> str:
    """A line a set and number of rows: mean accuracy over the draws, its standard deviation, and seconds."""
    runs: dict[tuple[str, int], dict[str, list[dict[str, float]]]] = {}
    for each in result["runs"]:
        runs.setdefault((each["set"], each["rows"]), {}).setdefault(each["system"], []).append(each)
    lines = [
        "# From a few rows of each class",
        "",
        f"MiniLM-L6, at most {LIMIT:,} trainable parameters in leantune, all 22.7 million in SetFit; accuracy on "
        f"{TEST_ROWS:,} test rows in per cent: mean over draws of the rows, standard deviation, number of draws. "
        f"`{result['command']}` on {machine_name(result['hardware'])}, {result['date']}; "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items() if name != "python")
        + ".",
        "",
        "| set | rows a class | leantune | SetFit | linear probe of leantune's start | seconds, leantune | SetFit |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, number), systems in sorted(runs.items()):
        ours, theirs = systems.get(OURS, []), systems.get(SETFIT, [])
        lines.append(
            f"| {name} | {number} | {_spread(ours, 'accuracy')} | {_spread(theirs, 'accuracy')} | "
            f"{_spread(ours, 'probe')} | {_seconds(ours)} | {_seconds(theirs)} |"
        )
    return "\n".join(lines) + "\n"


def _spread(runs: list[dict[str, float]], key: str) -> str:
    values = [100 * run[key] for run in runs]
    if not values:
        return ""
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread} ({len(values)})"


def _seconds(runs: list[dict[str, float]]) -> str:
    return f"{mean(run['seconds'] for run in runs):.0f}" if runs else ""


if __name__ == "__main__":
    raise SystemExit(main())
