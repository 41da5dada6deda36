"""Measure leantune against the usual pipeline: ``python -m benchmarks.speed [--long]``.

Training and prediction, MiniLM-L6 and a random-weight RoBERTa-base, on rows of AG News (else Reuters
R8). Prints tables and writes JSON, Markdown and a picture into ``benchmarks/results/``. Exit code 1 if
a pipeline did not train or saw other tokens than the rest.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from benchmarks.harness import Benchmark
from benchmarks.speed import report
from benchmarks.speed.comparison import problems_of, run_rounds
from benchmarks.speed.matrix_rates import matrix_rates, the_higher
from benchmarks.speed.setting import Setting, setting

BENCHMARK = Benchmark("speed", __doc__)
EXTRAS = ("openvino", "nncf")
"""Packages that only some pipelines need."""


def main() -> int:
    parser = BENCHMARK.parser()
    parser.add_argument("--long", action="store_true", help="the full table: more rows, LoRA, fp32")
    parser.add_argument("--rounds", type=int, default=3, help="repeats of every pipeline, alternating")
    parser.add_argument(
        "--minutes", type=float, help="start no round that would end later; default: 10, with --long no limit"
    )
    parser.add_argument("--only", default="", help="models to run, by a part of their names")
    options = parser.parse_args()
    with setting(options.only) as found:
        result = measure(options, found)
    picture = BENCHMARK.file(options.results, result["hardware"], "png")
    BENCHMARK.publish(options.results, result, report.markdown_of(result, picture.name))
    report.draw(result, picture)
    return 1 if result["problems"] else 0


def measure(options: argparse.Namespace, found: Setting) -> dict[str, Any]:
    """Run everything."""
    minutes = options.minutes or (math.inf if options.long else 10)
    end = time.perf_counter() + 60 * minutes
    origin, rates = BENCHMARK.origin(), matrix_rates(found.place)
    comparisons = [
        found.comparison(model, task, is_long=options.long)
        for model in found.models
        for task in ("training", "prediction")  # in this order: prediction uses what training made
    ]
    run_rounds(comparisons, found.place, rounds=options.rounds, limit_s=end - time.perf_counter())
    origin["versions"] |= {name: metadata.version(name) for name in EXTRAS if find_spec(name)}
    return {
        **origin,
        "precision": found.precision,
        "data": found.data,
        "problems": [problem for each in comparisons for problem in problems_of(each)],
        "missing": found.missing,
        **report.measurements_of(comparisons, the_higher(rates, matrix_rates(found.place))),
    }


if __name__ == "__main__":
    sys.exit(main())
