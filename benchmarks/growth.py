"""Whether cost grows with the rows and no faster: ``python -m benchmarks.growth [--rows 1000000]``.

Tokenizes a tenth of the rows and all of them with leantune and with ``datasets``, and classifies as many texts of
eight words with a trained MiniLM-L6, each in a fresh process. Prints a table of seconds and memory and writes JSON
and Markdown into ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.results_folder import RESULTS, machine_name, stem_of, write_result
from benchmarks.speed.__main__ import describe_machine, prepare, workplace
from benchmarks.speed.inputs import Rows, available_models, read_rows, repeated, write_rows
from benchmarks.speed.pipelines import LEANTUNE, Workload, leantune_prediction, leantune_training
from benchmarks.speed.process import Workplace

FACTOR = 10
PREDICTED_WORDS = 8
"""Of each text, so that a million predictions take minutes: what is looked at is growth, not speed."""


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


def main() -> int:
    options = parse_options()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        place = workplace(Path(folder), console)
        machine = describe_machine(place)
        models, _ = available_models(place)
        data, rows = read_rows(place)
        work = prepare(models[0], "training", rows, machine["precision"], place.folder, is_long=False).work
        place.say(f"training {models[0].name}")
        place.run(leantune_training().command(work, place.folder))
        growths = measure_growth(work, rows, options.rows, place)
    result = {
        "date": date.today().isoformat(),
        "command": " ".join(["python -m benchmarks.growth", *sys.argv[1:]]),
        "machine": machine,
        "model": models[0].name,
        "data": data,
        "growth": {name: asdict(growth) for name, growth in growths.items()},
    }
    text = markdown_of(result)
    console.print(text, highlight=False, soft_wrap=True)
    stem = stem_of("growth", machine["hardware"])
    for path in write_result(Path(options.output), stem, result, text):
        console.print(path, highlight=False, soft_wrap=True)
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=100_000, help="most rows")
    parser.add_argument("--output", default=str(RESULTS), help="folder to write")
    return parser.parse_args()


def markdown_of(result: Mapping[str, Any]) -> str:
    """The table, under what was done and where."""
    hardware, versions = result["machine"]["hardware"], result["machine"]["versions"]
    lines = [
        f"# {FACTOR} times the rows, {result['date']}",
        "",
        f"`{result['command']}` on {machine_name(hardware)}, {hardware['cores']} cores; torch {versions['torch']}, "
        f"datasets {versions['datasets']}. Texts of {result['data']}, repeated with a number behind each; "
        f"prediction with {result['model']}. Memory is the peak of the largest process; datasets has three.",
        "",
        "| | rows | seconds | rows/s | time ratio | peak memory | memory ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, cost in result["growth"].items():
        each = Growth(**cost)
        lines.append(
            f"| {name} | {each.few_rows:,} / {each.many_rows:,} | {each.few_s:.1f} / {each.many_s:.1f} | "
            f"{each.few_rows / each.few_s:,.0f} / {each.many_rows / each.many_s:,.0f} | {each.time_ratio:.2f} | "
            f"{each.few_rss_bytes / 1e9:.2f} / {each.many_rss_bytes / 1e9:.2f} GB | {each.memory_ratio:.2f} |"
        )
    return "\n".join([*lines, ""])


def measure_growth(work: Workload, rows: Rows, most_rows: int, place: Workplace) -> dict[str, Growth]:
    """Tokenizing by leantune and by ``datasets``, and prediction by leantune, by what was done.

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
        f"tokenizing, {LEANTUNE}": ("tokenise_s", works, _tokenize_with("leantune")),
        "tokenizing, datasets.map": ("tokenise_s", works, _tokenize_with("datasets")),
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


def _tokenize_with(pipeline: str) -> Callable[[Workload, Path], list[str]]:
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


if __name__ == "__main__":
    sys.exit(main())
