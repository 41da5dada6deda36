"""Whether a threshold keeps the precision that it promises: ``python -m benchmarks.abstention --work FOLDER``.

MiniLM-L6 is trained on AG News, and the 3,800 test rows stand for all rows that there are. Again and again rows are
drawn from them, ``leantune abstain`` chooses thresholds on these, and the precision among all rows is looked up: the
share of drawings that keep it must be at least the promised one.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Benchmark, Result, measured_by, page, percent, table
from benchmarks.inputs import AG_NEWS, minilm_run
from leantune.evaluation.abstention import is_answered, with_temperature
from leantune.inference.load import load
from leantune.questions.abstain.compute import choose_abstention
from leantune.training.after.calibration_data import rows_to_measure

BENCHMARK = Benchmark("abstention", __doc__)
CONFIDENCE = 0.9
ROWS, PRECISIONS = (200, 500, 1000, 2000), (0.93, 0.95, 0.97, 0.99)


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--work", type=Path, required=True, help="folder to work in")
    parser.add_argument("--drawings", type=int, default=1000)
    options = parser.parse_args()
    run = minilm_run(options.work)
    rows, _ = rows_to_measure(run, str(AG_NEWS / "dev_test.csv"))
    trained = load(run)
    probabilities = trained.probabilities(rows.encoded(), 64, start=0)
    lines = [
        {
            "rows": count,
            "precision": precision,
            **drawings(probabilities, rows.label_ids, trained.classes, count, precision, options.drawings),
        }
        for count, precision in product(ROWS, PRECISIONS)
    ]
    accuracy = float((probabilities.argmax(1) == rows.label_ids).mean())
    measured = {"accuracy": accuracy, "drawings": options.drawings, "lines": lines}
    result = {**BENCHMARK.origin(), **measured}
    BENCHMARK.publish(options.results, result, markdown_of(result))


def drawings(
    probabilities: Any, label_ids: Any, names: tuple[str, ...], count: int, precision: float, number: int
) -> dict[str, float]:
    """How often the precision is kept, how often there is a threshold, and the mean share that is answered."""
    rng = np.random.default_rng(0)
    kept, found, coverage = 0, 0, 0.0
    is_right = probabilities.argmax(1) == label_ids
    for i in range(number):
        sample = rng.integers(0, len(label_ids), count)
        chosen = choose_abstention(
            probabilities[sample],
            label_ids[sample],
            names,
            precision=precision,
            confidence=CONFIDENCE,
            source="",
            seed=i,
        )
        answered = is_answered(
            with_temperature(probabilities, chosen.temperature), chosen, names, per_class=False
        )
        found += chosen.overall is not None
        coverage += answered.mean() / number
        kept += not answered.any() or is_right[answered].mean() >= precision
    return {"kept": kept / number, "found": found / number, "coverage": coverage}


def markdown_of(result: Result) -> str:
    lines = (
        [
            f"{each['rows']:,}",
            f"{100 * each['precision']:g} %",
            percent(each["kept"]),
            *(percent(each[key], 0) for key in ("found", "coverage")),
        ]
        for each in result["lines"]
    )
    header = [
        "labelled rows",
        "wanted precision",
        "drawings that keep it",
        "with a threshold",
        "answered, mean",
    ]
    return page(
        "Thresholds for a wanted precision",
        f"MiniLM-L6 on AG News, {percent(result['accuracy'])} right of 3,800 test rows; {result['drawings']:,} "
        f"drawings of each line, promised confidence {100 * CONFIDENCE:g} %. {measured_by(result)}.",
        table(header, lines, right=range(5)),
    )


if __name__ == "__main__":
    main()
