"""How long the smallest commands take: ``python -m benchmarks.startup RUN [--rounds 5]``.

RUN is the folder of a finished run, runs/quickstart of ``make quickstart`` for one. ``leantune --help``, ``leantune
predict`` of ten rows, transformers' pipeline on the same ten, and importing alone what both need take turns, each in a
fresh process. Prints a table of medians and writes JSON and Markdown into ``benchmarks/results/``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.harness import Benchmark, Result, measured_by, page, table, turns
from benchmarks.inputs import finished_run
from benchmarks.processes import COMMAND, workplace

BENCHMARK = Benchmark("startup", __doc__)
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


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("run", type=finished_run, help="folder of a finished run")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = workplace(Path(folder))
        commands = commands_for(options.run, place.folder)
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for command in commands.values():  # the first time reads files that later ones find in memory
            place.run(command)
        for _, name in turns(tuple(commands), options.rounds):
            seconds[name].append(place.run(commands[name]).wall_s)
    result = {**BENCHMARK.origin(), "rows": NUM_ROWS, "seconds": seconds}
    BENCHMARK.publish(options.results, result, markdown_of(result))


def commands_for(run: Path, folder: Path) -> dict[str, list[str]]:
    """What is timed, by name; their ten rows and what they write are in ``folder``."""
    rows, output = folder / "ten.csv", folder / "predictions.csv"
    texts = [f"Shares of company {i} fell after the report." for i in range(NUM_ROWS)]
    rows.write_text("\n".join(["text", *texts]) + "\n", "utf-8")
    config = json.loads((run / "merged" / "config.json").read_text("utf-8"))
    files = ["--input", str(rows), "--output", str(output), "--overwrite"]
    imports = IMPORT_SCRIPT.format(architecture=config["architectures"][0])
    return {
        HELP: [*COMMAND, "--help"],
        IMPORTS: [sys.executable, "-c", imports],
        PREDICT: [*COMMAND, "predict", str(run), *files],
        PIPELINE: [sys.executable, "-c", PIPELINE_SCRIPT, str(run / "merged"), str(rows), str(output)],
    }


def markdown_of(result: Result) -> str:
    """The table, under what was done and where."""
    return page(
        f"Start-up, {result['date']}",
        f"{measured_by(result, 'torch', 'transformers')}. Seconds of whole processes that take turns; both predictions "
        f"are of the same {result['rows']} rows by the same model.",
        table(
            ["", "median", "from", "to"],
            (
                [name, f"{median(each):.2f} s", f"{min(each):.2f}", f"{max(each):.2f}"]
                for name, each in result["seconds"].items()
            ),
        ),
    )


if __name__ == "__main__":
    main()
