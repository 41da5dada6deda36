"""Whether cost grows with the rows and no faster: seconds and memory for N rows and for 10 N."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.speed.arithmetic import Growth
from benchmarks.speed.inputs import Rows, repeated, write_rows
from benchmarks.speed.pipelines import LEANTUNE, Workload, leantune_prediction
from benchmarks.speed.process import Workplace

FACTOR = 10
PREDICTED_WORDS = 8
"""Of each text, so that a million predictions take minutes: what is looked at is growth, not speed."""


def measure_growth(work: Workload, rows: Rows, most_rows: int, place: Workplace) -> dict[str, Growth]:
    """Tokenising by leantune and by ``datasets``, and prediction by leantune, by what was done.

    Memory is that of the largest process; ``datasets`` uses three.
    """
    sizes = (most_rows // FACTOR, most_rows)
    works = [
        replace(work, rows=write_rows(place.folder / f"rows-{size}.csv", repeated(rows, size)))
        for size in sizes
    ]
    short = [
        replace(
            work, rows=write_rows(place.folder / f"short-rows-{size}.csv", repeated(_shortened(rows), size))
        )
        for size in sizes
    ]
    tasks: dict[str, tuple[str, list[Workload], Callable[[Workload, Path], list[str]]]] = {
        f"tokenising, {LEANTUNE}": ("tokenise_s", works, _tokenise_with("leantune")),
        "tokenising, datasets.map": ("tokenise_s", works, _tokenise_with("datasets")),
        f"prediction of {PREDICTED_WORDS} words, {LEANTUNE}": (
            "predict_s",
            short,
            leantune_prediction().command,
        ),
    }
    growths = {}
    for name, (clock, inputs, command) in tasks.items():
        place.say(f"{name}: {sizes[0]:,} and {sizes[1]:,} rows")
        growths[name] = _growth(sizes, [_cost(command(each, place.folder), clock, place) for each in inputs])
    return growths


def _shortened(rows: Rows) -> Rows:
    return [(" ".join(text.split()[:PREDICTED_WORDS]), label) for text, label in rows]


def _tokenise_with(pipeline: str) -> Callable[[Workload, Path], list[str]]:
    def command(work: Workload, folder: Path) -> list[str]:
        files = ["--model", work.model, "--input", work.rows, "--output", folder / "result.json"]
        script = [sys.executable, "-m", "benchmarks.speed.tokenise", "--pipeline", pipeline]
        return [*script, *map(str, files)]

    return command


def _cost(command: list[str], clock: str, place: Workplace) -> tuple[float, int]:
    """Seconds by the process's own clock, and its peak memory in bytes."""
    outcome = place.run(command)
    result = json.loads((place.folder / "result.json").read_text("utf-8"))
    return result[clock], outcome.peak_rss_bytes


def _growth(sizes: tuple[int, int], costs: Sequence[tuple[float, int]]) -> Growth:
    (few_s, few_bytes), (many_s, many_bytes) = costs
    return Growth(
        few_rows=sizes[0],
        many_rows=sizes[1],
        few_s=few_s,
        many_s=many_s,
        few_rss_bytes=few_bytes,
        many_rss_bytes=many_bytes,
    )
