"""Whether a threshold keeps the precision that it promises: ``python -m benchmarks.abstention --work FOLDER``.

MiniLM-L6 is trained on AG News, and the 3,800 test rows stand for all rows that there are. Again and again rows are
drawn from them, ``leantune abstain`` chooses thresholds on these, and the precision among all rows is looked up: the
share of drawings that keep it must be at least the promised one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bulk.efficiency import DATA
from benchmarks.bulk.inputs import train
from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result
from leantune.evaluation.abstention import is_answered, with_temperature
from leantune.inference.load import load
from leantune.questions.abstain.compute import choose_abstention
from leantune.training.after.calibration_data import rows_to_measure

CONFIDENCE = 0.9
ROWS, PRECISIONS = (200, 500, 1000, 2000), (0.93, 0.95, 0.97, 0.99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder to work in")
    parser.add_argument("--drawings", type=int, default=1000)
    options = parser.parse_args()
    run = options.work / "run"
    if not (run / "merged").exists():
        options.work.mkdir(parents=True, exist_ok=True)
        train(run, DATA / "train.csv", "asset:minilm", "max_length=128", "epochs=1")
    rows, _ = rows_to_measure(run, str(DATA / "dev_test.csv"))
    trained = load(run)
    probabilities = trained.probabilities(rows.encoded(), 64, start=0)
    lines = [
        {
            "rows": count,
            "precision": precision,
            **drawings(probabilities, rows.label_ids, trained.classes, count, precision, options.drawings),
        }
        for count in ROWS
        for precision in PRECISIONS
    ]
    origin = origin_of("benchmarks.abstention")
    accuracy = float((probabilities.argmax(1) == rows.label_ids).mean())
    result = {**origin, "accuracy": accuracy, "drawings": options.drawings, "lines": lines}
    text = markdown_of(origin, result)
    write_result(RESULTS, stem_of("abstention", origin["hardware"]), result, text)
    print(text)


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


def markdown_of(origin: dict[str, Any], result: dict[str, Any]) -> str:
    lines = [
        "# Thresholds for a wanted precision",
        "",
        f"MiniLM-L6 on AG News, {100 * result['accuracy']:.1f} % right of 3,800 test rows; {result['drawings']:,} "
        f"drawings of each line, promised confidence {100 * CONFIDENCE:g} %. `{origin['command']}` on "
        f"{machine_name(origin['hardware'])}, {origin['date']}.",
        "",
        "| labelled rows | wanted precision | drawings that keep it | with a threshold | answered, mean |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {each['rows']:,} | {100 * each['precision']:g} % | {100 * each['kept']:.1f} % | "
        f"{100 * each['found']:.0f} % | {100 * each['coverage']:.0f} % |"
        for each in result["lines"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
