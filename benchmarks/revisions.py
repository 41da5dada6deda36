"""Whether a change cost speed: ``python -m benchmarks.revisions OLD [NEW] [--rounds 5]``.

``OLD`` and ``NEW`` are checkouts of leantune with the recipe keys of this one and with their kernels; ``NEW`` is this
one unless told. Training and prediction of both models of ``benchmarks.speed``, in bf16 and with products in int8, take
turns, each in a fresh process. Prints texts a second and the median of the ratios of each round, and writes JSON and
Markdown into ``benchmarks/results/``.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.harness import ROOT, Benchmark, Result, measured_by, page, table, turns
from benchmarks.processes import Workplace
from benchmarks.speed.pipelines import Pipeline, leantune_prediction, leantune_training
from benchmarks.speed.setting import Setting, setting

BENCHMARK = Benchmark("revisions", __doc__)
PIPELINES: dict[str, dict[str, Pipeline]] = {
    "training": {"bf16": leantune_training(precision="bf16"), "int8": leantune_training()},
    "prediction": {"bf16": leantune_prediction(), "int8": leantune_prediction(precision="int8")},
}
"""By task and precision; prediction uses what training made."""

Rates = dict[str, dict[str, list[float]]]
"""Texts a second, ``old`` and ``new``, of each round; by what was measured."""


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("old", type=Path, help="a checkout to compare with")
    parser.add_argument("new", type=Path, nargs="?", default=ROOT, help="the checkout that is judged")
    parser.add_argument("--rounds", type=int, default=5, help="repeats of each, alternating")
    parser.add_argument("--only", default="", help="models to run, by a part of their names")
    options = parser.parse_args()
    with setting(options.only) as found:
        trees = {"old": options.old, "new": options.new}
        places = {name: place_of(tree.resolve(), found.place) for name, tree in trees.items()}
        rates = measure(places, found, options.rounds)
    result = {**BENCHMARK.origin(), "texts_per_s": rates}
    BENCHMARK.publish(options.results, result, markdown_of(result))


def place_of(tree: Path, place: Workplace) -> Workplace:
    """Where processes import the package and the benchmarks of ``tree``."""
    environment = {**place.environment, "PYTHONPATH": os.pathsep.join([str(tree / "src"), str(tree)])}
    changed = replace(place, environment=environment, cwd=tree)
    found = changed.output_of([sys.executable, "-c", "import leantune; print(leantune.__file__)"]).strip()
    if not Path(found).is_relative_to(tree):
        raise SystemExit(f"{tree} is no checkout of leantune: Python imports {found}")
    return changed


def measure(places: dict[str, Workplace], found: Setting, rounds: int) -> Rates:
    """Each pipeline by each checkout, in turns that begin with the other checkout every time."""
    rates: Rates = {}
    for model in found.models:
        for task, pipelines in PIPELINES.items():
            work = found.comparison(model, task).work
            for precision, pipeline in pipelines.items():
                if precision == "int8" and not found.has_int8:
                    continue
                by_tree = rates.setdefault(f"{model.name}, {task}, {precision}", {})
                for number, which in turns(tuple(places), rounds):
                    found.place.say(f"round {number + 1}, {model.name}, {task}, {precision}, {which}")
                    own = replace(work, trained=found.place.folder / f"{which}-{work.trained.parent.name}")
                    by_tree.setdefault(which, []).append(pipeline.sample(own, places[which]).samples_per_s)
    return rates


def markdown_of(result: Result) -> str:
    """The table."""
    lines = []
    for what, by_tree in result["texts_per_s"].items():
        ratios = [new / old for old, new in zip(by_tree["old"], by_tree["new"], strict=True)]
        rates = (f"{median(by_tree[which]):.0f}" for which in ("old", "new"))
        lines.append(
            [what, *rates, *(f"{value:.3f}" for value in (median(ratios), min(ratios), max(ratios)))]
        )
    return page(
        f"Two checkouts ({result['date']})",
        f"{measured_by(result)}. Texts a second, medians; the ratio is the median of those of each round.",
        table(["what", "old", "new", "ratio", "smallest", "largest"], lines),
    )


if __name__ == "__main__":
    main()
