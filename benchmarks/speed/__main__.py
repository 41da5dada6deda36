"""Measure leantune against the usual pipeline: ``python -m benchmarks.speed [--long]``.

Training and prediction, MiniLM-L6 and a random-weight RoBERTa-base, on rows of AG News (else Reuters
R8). Prints tables and writes JSON, Markdown and a picture into ``benchmarks/results/``. Exit code 1 if
a pipeline did not train or saw other tokens than the rest.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.results_folder import RESULTS, stem_of, write_result
from benchmarks.speed import inputs, pipelines, plot, report
from benchmarks.speed.arithmetic import slug
from benchmarks.speed.comparison import Comparison, problems_of, run_rounds
from benchmarks.speed.process import Workplace
from leantune.kernels.native.kernels import why_no_int8

ROOT = Path(__file__).parents[2]
VALIDATION_ROWS = 64
# (default, --long); training rows are whole batches of 32, and enough of them that the first step, which compiles
# kernels, does not decide
ROWS = {
    ("MiniLM-L6", "training"): (1024, 2048),
    ("RoBERTa-base shape", "training"): (384, 640),
    ("MiniLM-L6", "prediction"): (1024, 2048),
    ("RoBERTa-base shape", "prediction"): (256, 640),
}


def main() -> int:
    options = parse_options()
    console = Console(width=None if sys.stdout.isatty() else 100)  # no wrapped tables in a log
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, workplace(Path(folder), console))
    for table in report.rich_tables(result):
        console.print(table, "")
    for path in write(result, Path(options.output)):
        console.print(path, highlight=False, soft_wrap=True)
    for problem in result["problems"]:
        console.print(f"not valid: {problem}", style="red", highlight=False, soft_wrap=True)
    return 1 if result["problems"] else 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--long", action="store_true", help="the full table: more rows, LoRA, fp32")
    parser.add_argument("--rounds", type=int, default=3, help="repeats of every pipeline, alternating")
    parser.add_argument(
        "--minutes", type=float, help="start no round that would end later; default: 10, with --long no limit"
    )
    parser.add_argument("--only", default="", help="models to run, by a part of their names")
    parser.add_argument("--output", default=str(RESULTS), help="folder to write")
    options = parser.parse_args()
    if not any(options.only in name for name, _ in ROWS):
        parser.error(
            f"--only {options.only}: no such model; there are {', '.join({name: 0 for name, _ in ROWS})}"
        )
    return options


def workplace(folder: Path, console: Console) -> Workplace:
    """Processes that find this package, ask no hub and leave no cache behind."""
    started = time.perf_counter()

    def say(text: str) -> None:
        console.print(f"{time.perf_counter() - started:5.0f} s  {text}", highlight=False, soft_wrap=True)

    search_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "huggingface"), "PYTHONPATH": search_path}
    return Workplace(folder, environment, say)


def measure(options: argparse.Namespace, place: Workplace) -> dict[str, Any]:
    """Run everything."""
    minutes = options.minutes or (math.inf if options.long else 10)
    end = time.perf_counter() + 60 * minutes
    machine = describe_machine(place)
    models, missing = inputs.available_models(place)
    data, rows = inputs.read_rows(place)
    for sentence in missing:
        place.say(sentence)
    comparisons = [
        prepare(model, task, rows, machine["precision"], place.folder, is_long=options.long)
        for model in models
        if options.only in model.name
        for task in ("training", "prediction")  # in this order: prediction uses what training made
    ]
    if not comparisons:
        raise SystemExit(f"nothing to measure; {'; '.join(missing)}")
    run_rounds(comparisons, place, rounds=options.rounds, limit_s=end - time.perf_counter())
    return report.result_of(
        comparisons,
        machine=at_its_best(machine, describe_machine(place)),
        data=data,
        date=date.today().isoformat(),
        command=" ".join(["python -m benchmarks.speed", *sys.argv[1:]]),
        problems=[problem for each in comparisons for problem in problems_of(each)],
        missing=missing,
    )


def describe_machine(place: Workplace) -> dict[str, Any]:
    """What `benchmarks.speed.machine` prints."""
    machine: dict[str, Any] = json.loads(place.output_of([sys.executable, "-m", "benchmarks.speed.machine"]))
    return machine


def at_its_best(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The machine with the higher of two measured rates: a limit must not be what a busy moment allowed."""
    rates = {name: max(rate, second["matrix_flops"][name]) for name, rate in first["matrix_flops"].items()}
    return first | {"matrix_flops": rates}


def prepare(
    model: inputs.Model, task: str, rows: inputs.Rows, precision: str, folder: Path, *, is_long: bool
) -> Comparison:
    """Write the rows of a comparison: first those to train on, then a few to validate, then the others."""
    home = folder / slug(model.name)
    home.mkdir(exist_ok=True)
    count = ROWS[model.name, task][is_long]
    trained = ROWS[model.name, "training"][is_long]
    first = 0 if task == "training" else trained + VALIDATION_ROWS
    work = pipelines.Workload(
        model=model.folder,
        rows=inputs.write_rows(home / f"{task}.csv", rows[first : first + count]),
        validation=inputs.write_rows(home / "validation.csv", rows[trained:][:VALIDATION_ROWS]),
        trained=home / "run",
        precision=precision,
        learning_rate=model.learning_rate,
    )
    has_int8 = precision == "bf16" and not torch.cuda.is_available() and not why_no_int8()
    shown = pipelines.pipelines_of(task, is_long=is_long, has_int8=has_int8)
    return Comparison(model, task, count, work, shown)


def write(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """The three files of a result."""
    stem = stem_of("speed", result["machine"]["hardware"])
    picture = folder / f"{stem}.png"
    files = write_result(folder, stem, result, report.markdown_of(result, picture.name))
    plot.draw(result, picture)
    return [*files, picture]


if __name__ == "__main__":
    sys.exit(main())
