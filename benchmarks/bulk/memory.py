"""Peak memory of a prediction of many files against the number of rows, with a tiny BERT.

python -m benchmarks.bulk.memory --work /tmp/bulk-memory [--rows 10000,100000,1000000,10000000]
"""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.bulk.kills import command_of
from benchmarks.harness import Benchmark, Result, measured_by, page, table, whole_numbers
from benchmarks.inputs import tiny_run, write_texts

BENCHMARK = Benchmark("bulk.memory", __doc__)
FILE_ROWS, ROW_GROUP = 1_000_000, 100_000


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--work", type=Path, required=True, help="folder to work in")
    parser.add_argument("--rows", type=whole_numbers, default=[10_000, 100_000, 1_000_000, 10_000_000])
    options = parser.parse_args()
    run = tiny_run(options.work / "inputs")
    result: dict[str, Any] = {**BENCHMARK.origin(), "runs": []}
    for rows in options.rows:
        folder = options.work / f"rows-{rows}"
        for number, start in enumerate(range(0, rows, FILE_ROWS)):
            count = min(FILE_ROWS, rows - start)
            write_texts(folder / f"{number}.parquet", count, ROW_GROUP, words=3, seed=number)
        command = command_of(run, folder, options.work / f"out-{rows}", "--quiet")
        result["runs"].append({"rows": rows, **measure(command)})
        BENCHMARK.publish(options.results, result, markdown_of(result))


def measure(command: list[str]) -> dict[str, float]:
    """Seconds, and the peak resident memory of the command and of its process that computes."""
    started = time.perf_counter()
    process = subprocess.Popen(command)
    peaks: dict[int, int] = {}
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):  # it ended between two looks
            command_itself = psutil.Process(process.pid)
            for each in (command_itself, *command_itself.children(recursive=True)):
                peaks[each.pid] = max(peaks.get(each.pid, 0), each.memory_info().rss)
        time.sleep(0.1)
    assert process.returncode == 0
    seconds, own = time.perf_counter() - started, peaks.pop(process.pid)
    return {"seconds": seconds, "command_bytes": own, "worker_bytes": max(peaks.values())}


def markdown_of(result: Result) -> str:
    lines = (
        [
            f"{each['rows']:,}",
            str(-(-each["rows"] // ROW_GROUP)),
            f"{each['seconds']:.0f}",
            *(f"{each[key] / 1e6:.0f}" for key in ("command_bytes", "worker_bytes")),
        ]
        for each in result["runs"]
    )
    header = ["rows", "parts", "seconds", "memory of the command, MB", "of the process that computes, MB"]
    return page(
        "Memory against rows",
        f"A tiny BERT, texts of three words, parts of {ROW_GROUP:,} rows, one process that computes. "
        f"{measured_by(result)}.",
        table(header, lines, right=range(5)),
    )


if __name__ == "__main__":
    main()
