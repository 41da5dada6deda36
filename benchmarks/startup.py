"""How long the smallest commands take: ``python -m benchmarks.startup RUN [--rounds 5]``.

RUN is the folder of a finished run, runs/quickstart of ``make quickstart`` for one. ``leantune --help``, ``leantune
predict`` of ten rows, transformers' pipeline on the same ten, and importing alone what both need take turns, each in a
fresh process. Prints a table of medians and writes JSON and Markdown into ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result

NUM_ROWS = 10
HELP, PREDICT = "leantune --help", "leantune predict"
IMPORTS, PIPELINE = "import torch and the classes of transformers", "transformers' pipeline"

IMPORT_SCRIPT = """
import torch, transformers
from transformers import AutoTokenizer, {architecture}
"""
PIPELINE_SCRIPT = """
import csv, sys
from transformers import pipeline
with open(sys.argv[2], newline="", encoding="utf-8") as file:
    texts = [row["text"] for row in csv.DictReader(file)]
predictions = pipeline("text-classification", model=sys.argv[1])(texts, truncation=True)
with open(sys.argv[3], "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([each["label"], each["score"]] for each in predictions)
"""


def main() -> int:
    options = parse_options()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        commands = commands_for(options.run.resolve(), Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for command in commands.values():  # the first time reads files that later ones find in memory
            seconds_of(command)
        for _ in range(options.rounds):
            for name, command in commands.items():
                seconds[name].append(seconds_of(command))
    result = {**origin_of("benchmarks.startup"), "rows": NUM_ROWS, "seconds": seconds}
    text = markdown_of(result)
    console.print(text, highlight=False, soft_wrap=True)
    stem = stem_of("startup", result["hardware"])
    for path in write_result(RESULTS, stem, result, text):
        console.print(path, highlight=False, soft_wrap=True)
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.startup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not (options.run / "merged" / "config.json").is_file():
        parser.error(f"{options.run}: no finished run; make quickstart leaves one in runs/quickstart")
    return options


def commands_for(run: Path, folder: Path) -> dict[str, list[str]]:
    """What is timed, by name; their ten rows and what they write are in ``folder``."""
    rows, output = folder / "ten.csv", folder / "predictions.csv"
    texts = [f"Shares of company {i} fell after the report." for i in range(NUM_ROWS)]
    rows.write_text("\n".join(["text", *texts]) + "\n", "utf-8")
    config = json.loads((run / "merged" / "config.json").read_text("utf-8"))
    leantune = [sys.executable, "-m", "leantune"]
    files = ["--input", str(rows), "--output", str(output), "--overwrite"]
    imports = IMPORT_SCRIPT.format(architecture=config["architectures"][0])
    return {
        HELP: [*leantune, "--help"],
        IMPORTS: [sys.executable, "-c", imports],
        PREDICT: [*leantune, "predict", str(run), *files],
        PIPELINE: [sys.executable, "-c", PIPELINE_SCRIPT, str(run / "merged"), str(rows), str(output)],
    }


def seconds_of(command: Sequence[str]) -> float:
    """Of a fresh process, from its start to its end.

    Raises:
        subprocess.CalledProcessError: if it failed.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def markdown_of(result: Mapping[str, Any]) -> str:
    """The table, under what was done and where."""
    hardware, versions = result["hardware"], result["versions"]
    lines = [
        f"# Start-up, {result['date']}",
        "",
        f"`{result['command']}` on {machine_name(hardware)}, {hardware['cores']} cores; torch {versions['torch']}, "
        f"transformers {versions['transformers']}. Seconds of whole processes that take turns; both predictions are "
        f"of the same {result['rows']} rows by the same model.",
        "",
        "| | median | from | to |",
        "|---|---|---|---|",
    ]
    for name, seconds in result["seconds"].items():
        lines.append(f"| {name} | {median(seconds):.2f} s | {min(seconds):.2f} | {max(seconds):.2f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
