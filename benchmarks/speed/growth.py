"""Whether cost grows with the rows and no faster: seconds and memory for N rows and for 10 N."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.speed.arithmetic import Growth
from benchmarks.speed.inputs import Rows, repeated, write_rows
from benchmarks.speed.pipelines import LEANTUNE, Workload, leantune_prediction
from benchmarks.speed.process import run

FACTOR = 10


def measure_growth(
    work: Workload,
    rows: Rows,
    most_rows: int,
    *,
    folder: Path,
    environment: Mapping[str, str],
    say: Callable[[str], None],
) -> dict[str, Growth]:
    """Tokenising by leantune and by ``datasets``, and prediction by leantune, by what was done."""
    sizes = (most_rows // FACTOR, most_rows)
    files = {size: write_rows(folder / f"rows-{size}.csv", repeated(rows, size)) for size in sizes}

    def tokenise_with(pipeline: str) -> Callable[[Path], list[str]]:
        script = [sys.executable, "-m", "benchmarks.speed.tokenise", "--pipeline", pipeline]
        return lambda file: [
            *script,
            "--model",
            str(work.model),
            "--input",
            str(file),
            "--output",
            str(result),
        ]

    def predict(file: Path) -> list[str]:
        return leantune_prediction().command(replace(work, rows=file), folder)

    result = folder / "result.json"
    tasks = {
        f"tokenising, {LEANTUNE}": (tokenise_with("leantune"), "tokenise_s"),
        "tokenising, datasets.map": (tokenise_with("datasets"), "tokenise_s"),
        f"prediction, {LEANTUNE}": (predict, "predict_s"),
    }
    growths = {}
    for name, (command_for, seconds_key) in tasks.items():
        seconds, peaks = [], []
        for size, file in files.items():
            say(f"{name}: {size:,} rows")
            outcome = run(command_for(file), log=folder / "output.log", environment=environment)
            seconds.append(float(json.loads(result.read_text("utf-8"))[seconds_key]))
            peaks.append(outcome.peak_rss_bytes)
        growths[name] = Growth(
            few_rows=sizes[0],
            many_rows=sizes[1],
            few_s=seconds[0],
            many_s=seconds[1],
            few_rss_bytes=peaks[0],
            many_rss_bytes=peaks[1],
        )
    return growths
