"""Whether cost grows with the rows and no faster: ``python -m benchmarks.growth [--rows 1000000]``.

Tokenizes a tenth of the rows and all of them with leantune and with ``datasets``, and classifies as many texts of
eight words with a trained MiniLM-L6, each in a fresh process. Prints a table of seconds and memory and writes JSON
and Markdown into ``benchmarks/results/``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.harness import Benchmark, Result, measured_by, page, table
from benchmarks.inputs import Rows, repeated, write_rows
from benchmarks.processes import Workplace
from benchmarks.speed.pipelines import LEANTUNE, Workload, leantune_prediction, leantune_training
from benchmarks.speed.setting import setting

BENCHMARK = Benchmark("growth", __doc__)
FACTOR = 10
PREDICTED_WORDS = 8
"""Length of each text, so that a million predictions take minutes: what is looked at is growth, not speed."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Cost of the same work on few rows and on more."""

    few_rows: int
    many_rows: int
    few_s: float
    many_s: float
    few_rss_bytes: int
    many_rss_bytes: int

    @property
    def time_ratio(self) -> float:
        """Seconds for the many rows over seconds for the few."""
        return self.many_s / self.few_s

    @property
    def memory_ratio(self) -> float:
        """Peak memory for the many rows over that for the few."""
        return self.many_rss_bytes / self.few_rss_bytes


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--rows", type=int, default=100_000, help="most rows")
    options = parser.parse_args()
    with setting("MiniLM") as found:
        model, place = found.models[0], found.place
        work = found.comparison(model, "training").work
        place.say(f"training {model.name}")
        leantune_training().sample(work, place)
        growths = measure_growth(work, found.rows, options.rows, place)
    measured = {name: asdict(growth) for name, growth in growths.items()}
    result = {**BENCHMARK.origin(), "model": model.name, "data": found.data, "growth": measured}
    BENCHMARK.publish(options.results, result, markdown_of(result))


def markdown_of(result: Result) -> str:
    """The table, under what was done and where."""
    growths = {name: Growth(**cost) for name, cost in result["growth"].items()}
    return page(
        f"{FACTOR} times the rows, {result['date']}",
        f"{measured_by(result, 'torch', 'datasets')}. Texts of {result['data']}, repeated with a number behind each; "
        f"prediction with {result['model']}. Memory is the peak of the largest process; datasets has three.",
        table(
            ["", "rows", "seconds", "rows/s", "time ratio", "peak memory", "memory ratio"],
            (
                [
                    name,
                    f"{each.few_rows:,} / {each.many_rows:,}",
                    f"{each.few_s:.1f} / {each.many_s:.1f}",
                    f"{each.few_rows / each.few_s:,.0f} / {each.many_rows / each.many_s:,.0f}",
                    f"{each.time_ratio:.2f}",
                    f"{each.few_rss_bytes / 1e9:.2f} / {each.many_rss_bytes / 1e9:.2f} GB",
                    f"{each.memory_ratio:.2f}",
                ]
                for name, each in growths.items()
            ),
        ),
    )


def measure_growth(work: Workload, rows: Rows, most_rows: int, place: Workplace) -> dict[str, Growth]:
    """Tokenizing by leantune and by ``datasets``, and prediction by leantune, by what was done.

    Memory is that of the largest process; ``datasets`` uses three.
    """
    sizes = (most_rows // FACTOR, most_rows)
    shortened = [(" ".join(text.split()[:PREDICTED_WORDS]), label) for text, label in rows]

    def works(name: str, rows: Rows) -> list[Workload]:
        files = (write_rows(place.folder / f"{name}-{size}.csv", repeated(rows, size)) for size in sizes)
        return [replace(work, rows=file) for file in files]

    whole, short = works("rows", rows), works("short-rows", shortened)
    tasks: dict[str, tuple[str, list[Workload], Callable[[Workload, Path], list[str]]]] = {
        f"tokenizing, {LEANTUNE}": ("tokenise_s", whole, tokenize_with("leantune")),
        "tokenizing, datasets.map": ("tokenise_s", whole, tokenize_with("datasets")),
        f"prediction of {PREDICTED_WORDS} words, {LEANTUNE}": (
            "predict_s",
            short,
            leantune_prediction().command,
        ),
    }
    growths = {}
    for name, (clock, inputs, command) in tasks.items():
        place.say(f"{name}: {sizes[0]:,} and {sizes[1]:,} rows")
        (few_s, few_bytes), (many_s, many_bytes) = (
            cost(command(each, place.folder), clock, place) for each in inputs
        )
        growths[name] = Growth(*sizes, few_s, many_s, few_bytes, many_bytes)
    return growths


def tokenize_with(pipeline: str) -> Callable[[Workload, Path], list[str]]:
    def command(work: Workload, folder: Path) -> list[str]:
        files = map(str, (work.model, work.rows, folder / "result.json"))
        return [sys.executable, "-m", "benchmarks.speed.tokenise", pipeline, *files]

    return command


def cost(command: list[str], clock: str, place: Workplace) -> tuple[float, int]:
    """Seconds by the process's own clock, and its peak memory in bytes."""
    outcome = place.run(command)
    result = json.loads((place.folder / "result.json").read_text("utf-8"))
    return result[clock], outcome.peak_rss_bytes


if __name__ == "__main__":
    main()
