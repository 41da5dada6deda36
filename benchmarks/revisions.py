"""Whether a change cost speed: ``python -m benchmarks.revisions OLD [NEW] [--rounds 5]``.

``OLD`` and ``NEW`` are checkouts of leantune with the recipe keys of this one and with their kernels; ``NEW`` is this
one unless told. Training and prediction of both models of ``benchmarks.speed``, in bf16 and with products in int8, take
turns, each in a fresh process. Prints texts a second and the median of the ratios of each round, and writes JSON and
Markdown into ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result
from benchmarks.speed import inputs
from benchmarks.speed.__main__ import ROOT, prepare, workplace
from benchmarks.speed.pipelines import LEANTUNE, Pipeline, leantune_prediction, leantune_training
from benchmarks.speed.process import Workplace
from leantune.kernels.native.kernels import why_no_int8
from leantune.system.hardware import pick_device, pick_precision

Rates = dict[str, dict[str, list[float]]]
"""Texts a second, ``old`` and ``new``, of each round; by what was measured."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.revisions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", type=Path, help="a checkout to compare with")
    parser.add_argument("new", type=Path, nargs="?", default=ROOT, help="the checkout that is judged")
    parser.add_argument("--rounds", type=int, default=5, help="repeats of each, alternating")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory() as folder:
        place = workplace(Path(folder), console)
        places = {
            name: place_of(tree.resolve(), place)
            for name, tree in (("old", options.old), ("new", options.new))
        }
        rates = measure(places, place, rounds=options.rounds)
    result = {**origin_of("benchmarks.revisions"), "texts_per_s": rates}
    text = markdown_of(result)
    console.print(text, highlight=False, soft_wrap=True)
    stem = stem_of("revisions", result["hardware"])
    for path in write_result(RESULTS, stem, result, text):
        console.print(path, highlight=False, soft_wrap=True)
    return 0


def place_of(tree: Path, place: Workplace) -> Workplace:
    """Where processes import the package and the benchmarks of ``tree``."""
    environment = {**place.environment, "PYTHONPATH": os.pathsep.join([str(tree / "src"), str(tree)])}
    changed = replace(place, environment=environment, cwd=tree)
    found = changed.output_of([sys.executable, "-c", "import leantune; print(leantune.__file__)"]).strip()
    if not Path(found).is_relative_to(tree):
        raise SystemExit(f"{tree} is no checkout of leantune: Python imports {found}")
    return changed


def measure(places: dict[str, Workplace], place: Workplace, *, rounds: int) -> Rates:
    """Each pipeline by each checkout, in turns that begin with the other checkout every time."""
    precision = pick_precision("auto", pick_device())
    models, missing = inputs.available_models(place)
    for sentence in missing:
        place.say(sentence)
    _, rows = inputs.read_rows(place)
    rates: Rates = {}
    for model in models:
        for task in ("training", "prediction"):  # in this order: prediction uses what training made
            work = prepare(model, task, rows, precision, place.folder, is_long=False).work
            for number in range(rounds):
                for name, pipeline in pipelines_of(task).items():
                    turns = list(places.items())
                    for which, there in turns if number % 2 == 0 else turns[::-1]:
                        place.say(f"round {number + 1}, {model.name}, {task}, {name}, {which}")
                        own = replace(work, trained=place.folder / f"{which}-{work.trained.parent.name}")
                        outcome = there.run(pipeline.command(own, place.folder))
                        rate = pipeline.read(own, place.folder, outcome).samples_per_s
                        by_tree = rates.setdefault(f"{model.name}, {task}, {name}", {})
                        by_tree.setdefault(which, []).append(rate)
    return rates


def pipelines_of(task: str) -> dict[str, Pipeline]:
    """By precision."""
    if task == "training":
        ways = {"bf16": leantune_training(precision="bf16"), "int8": leantune_training(LEANTUNE)}
    else:
        ways = {"bf16": leantune_prediction(), "int8": leantune_prediction(precision="int8")}
    return {name: way for name, way in ways.items() if name != "int8" or not why_no_int8()}


def markdown_of(result: dict[str, Any]) -> str:
    """The table."""
    lines = [
        f"# Two checkouts ({result['date']})",
        "",
        f"`{result['command']}`, commit {result['commit']}, {machine_name(result['hardware'])}, "
        f"{result['hardware']['cores']} threads. Texts a second, medians; the ratio is the median of those of each "
        "round.",
        "",
        "| what | old | new | ratio | smallest | largest |",
        "|---|---|---|---|---|---|",
    ]
    for what, by_tree in result["texts_per_s"].items():
        ratios = [new / old for old, new in zip(by_tree["old"], by_tree["new"], strict=True)]
        numbers = [f"{median(by_tree[which]):.0f}" for which in ("old", "new")]
        numbers += [f"{value:.3f}" for value in (median(ratios), min(ratios), max(ratios))]
        lines.append(f"| {what} | {' | '.join(numbers)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
