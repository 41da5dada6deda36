"""Peak memory of a prediction of many files against the number of rows, with a tiny BERT.

python -m benchmarks.bulk.memory --work /tmp/bulk-memory [--rows 10000,100000,1000000,10000000]
"""

from __future__ import annotations

import argparse
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.bulk.inputs import tiny_run, write_texts
from benchmarks.bulk.kills import command_of
from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result

FILE_ROWS, ROW_GROUP = 1_000_000, 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder to work in")
    parser.add_argument("--rows", default="10000,100000,1000000,10000000")
    options = parser.parse_args()
    run = tiny_run(options.work / "inputs")
    found = []
    for rows in map(int, options.rows.split(",")):
        folder = options.work / f"rows-{rows}"
        for number, start in enumerate(range(0, rows, FILE_ROWS)):
            write_texts(
                folder / f"{number}.parquet", min(FILE_ROWS, rows - start), ROW_GROUP, words=3, seed=number
            )
        found.append(
            {"rows": rows, **measure(command_of(run, folder, options.work / f"out-{rows}", "--quiet"))}
        )
        print(found[-1], flush=True)
        origin = origin_of("benchmarks.bulk.memory")
        stem = stem_of("bulk_memory", origin["hardware"])
        write_result(RESULTS, stem, {**origin, "runs": found}, markdown_of(origin, found))


def measure(command: list[str]) -> dict[str, float]:
    """Seconds, and the peak resident memory of the command and of its process that computes."""
    started = time.perf_counter()
    process = subprocess.Popen(command)
    peaks: dict[int, int] = {}
    watching = threading.Thread(target=watch, args=(process, peaks))
    watching.start()
    process.wait()
    watching.join()
    assert process.returncode == 0
    own = peaks.pop(process.pid)
    return {
        "seconds": time.perf_counter() - started,
        "command_bytes": own,
        "worker_bytes": max(peaks.values()),
    }


def watch(process: subprocess.Popen[bytes], peaks: dict[int, int]) -> None:
    while process.poll() is None:
        try:
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for each in tree:
                peaks[each.pid] = max(peaks.get(each.pid, 0), each.memory_info().rss)
        except psutil.NoSuchProcess:  # it ended between two looks
            continue
        time.sleep(0.1)


def markdown_of(origin: dict[str, Any], found: list[dict[str, float]]) -> str:
    lines = [
        "# Memory against rows",
        "",
        f"A tiny BERT, texts of three words, parts of {ROW_GROUP:,} rows, one process that computes. "
        f"`{origin['command']}` on {machine_name(origin['hardware'])}, {origin['date']}.",
        "",
        "| rows | parts | seconds | memory of the command, MB | of the process that computes, MB |",
        "|---:|---:|---:|---:|---:|",
    ]
    for each in found:
        parts = -(-int(each["rows"]) // ROW_GROUP)
        lines.append(
            f"| {each['rows']:,} | {parts} | {each['seconds']:.0f} | {each['command_bytes'] / 1e6:.0f} | "
            f"{each['worker_bytes'] / 1e6:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
