"""How much of the rate of ``leantune predict`` is left when many files are classified: MiniLM-L6, AG News.

    python -m benchmarks.bulk.efficiency --work /tmp/bulk-efficiency [--rounds 3] [--rows 24576]

The same rows as one file by plain ``leantune predict``, and as parts by local processes and on Ray; alternating, every
one with all cores of this machine. The rate after the start is that between the first manifests and the last; of plain
``leantune predict`` it is by the difference to a run on a few of the rows.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Benchmark, Result, measured_by, page, percent, table, timed, turns
from benchmarks.inputs import AG_NEWS, minilm_run, read_rows
from benchmarks.processes import COMMAND, output_of

BENCHMARK = Benchmark("bulk.efficiency", __doc__)
PART_ROWS = 4096
FEW_ROWS = 2 * PART_ROWS
PLAIN = "plain leantune predict"
SYSTEMS: dict[str, tuple[str, ...]] = {
    PLAIN: (),
    "1 process, all cores": ("--workers", "1"),
    "2 processes, a core each": ("--workers", "2"),
    "Ray, 1 actor, all cores": ("--cluster", "local"),
    "Ray, 2 actors, a core each": ("--cluster", "local", "--cores-per-worker", "1"),
}


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--work", type=Path, required=True, help="folder to work in")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=24_576)
    options = parser.parse_args()
    work: Path = options.work
    run = minilm_run(work)
    rows, few = (write_rows(work / f"rows-{count}.parquet", count) for count in (options.rows, FEW_ROWS))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in SYSTEMS}
    for number, (name, words) in turns(tuple(SYSTEMS.items()), options.rounds):
        output = work / f"out-{number}-{'-'.join(words) or 'plain'}"
        if name == PLAIN:
            whole = predict(run, rows, f"{output}.parquet")
            rate = (options.rows - FEW_ROWS) / (whole - predict(run, few, f"{output}-few.parquet"))
        else:
            whole = predict(run, rows, f"{output}/", *words)
            rate = rate_after_start(output, 2 if "2" in name else 1)
        found[name].append({"seconds": whole, "texts_per_s": rate})
        print(number, name, found[name][-1], flush=True)
    result = {**BENCHMARK.origin(), "rows": options.rows, "systems": found}
    result["versions"]["ray"] = metadata.version("ray")
    BENCHMARK.publish(options.results, result, markdown_of(result))


def predict(run: Path, rows: Path, target: str, *words: str) -> float:
    """Seconds of a whole process."""
    command = [*COMMAND, "predict", str(run), str(rows), "--output", target, "--quiet", *words]
    return timed(lambda: output_of(command))[1]


def rate_after_start(output: Path, processes: int) -> float:
    """Texts a second, from when every process had written its first part."""
    times = sorted(path.stat().st_mtime for path in (output / "_manifests").iterdir())
    return PART_ROWS * (len(times) - processes) / (times[-1] - times[processes - 1])


def write_rows(path: Path, rows: int) -> Path:
    """Texts of the test rows, again and again."""
    texts = [text for text, _ in read_rows(AG_NEWS / "dev_test.csv")]
    texts = [texts[i % len(texts)] for i in range(rows)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=PART_ROWS)
    return path


def markdown_of(result: Result) -> str:
    lines, found = [], result["systems"]
    for name, runs in found.items():
        whole, rate = (median(run[key] for run in runs) for key in ("seconds", "texts_per_s"))
        pairs = zip(runs, found[PLAIN], strict=True)
        share = median(mine["texts_per_s"] / plain["texts_per_s"] for mine, plain in pairs)
        lines.append([name, f"{whole:.1f}", f"{rate:,.0f}", percent(share, 0)])
    return page(
        "Predictions of many files against one",
        f"MiniLM-L6, {result['rows']:,} texts of AG News in row groups of {PART_ROWS:,}; medians of "
        f"{len(found[PLAIN])} alternating rounds, and of the ratios of each round. {measured_by(result, 'ray')}.",
        table(
            ["", "whole process, s", "texts/s after the start", "of the plain rate"], lines, right=range(1, 4)
        ),
    )


if __name__ == "__main__":
    main()
