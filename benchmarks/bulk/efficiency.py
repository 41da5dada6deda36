"""How much of the rate of ``leantune predict`` is left when many files are classified: MiniLM-L6, AG News.

    python -m benchmarks.bulk.efficiency --work /tmp/bulk-efficiency [--rounds 3] [--rows 24576]

The same rows as one file by plain ``leantune predict``, and as parts by local processes and on Ray; alternating, every
one with all cores of this machine. The rate after the start is that between the first manifests and the last; of plain
``leantune predict`` it is by the difference to a run on a few of the rows.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bulk.inputs import LEANTUNE, train
from benchmarks.bulk.kills import ray_version
from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result

DATA = Path(__file__).parents[3] / "shared" / "data" / "ag_news"
PART_ROWS = 4096
FEW_ROWS = 2 * PART_ROWS
PLAIN = "plain leantune predict"
SYSTEMS: dict[str, tuple[str, ...]] = {
    "1 process, all cores": ("--workers", "1"),
    "2 processes, a core each": ("--workers", "2"),
    "Ray, 1 actor, all cores": ("--cluster", "local"),
    "Ray, 2 actors, a core each": ("--cluster", "local", "--cores-per-worker", "1"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder to work in")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=24_576)
    options = parser.parse_args()
    work: Path = options.work
    run, rows = work / "run", work / f"rows-{options.rows}.parquet"
    work.mkdir(parents=True, exist_ok=True)
    if not (run / "merged").exists():
        train(run, DATA / "train.csv", "asset:minilm", "max_length=128", "epochs=1")
    few = work / "rows-few.parquet"
    write_rows(rows, options.rows)
    write_rows(few, FEW_ROWS)
    found: dict[str, list[dict[str, float]]] = {}
    for number in range(options.rounds):
        for name, words in {PLAIN: (), **SYSTEMS}.items():
            output = work / f"out-{number}-{'-'.join(words) or 'plain'}"
            if name == PLAIN:
                whole = seconds_of(run, rows, f"{output}.parquet")
                rate = (options.rows - FEW_ROWS) / (whole - seconds_of(run, few, f"{output}-few.parquet"))
            else:
                whole = seconds_of(run, rows, f"{output}/", *words)
                rate = rate_after_start(output, 2 if "2" in name else 1)
            found.setdefault(name, []).append({"seconds": whole, "texts_per_s": rate})
            print(number, name, found[name][-1], flush=True)
    origin = origin_of("benchmarks.bulk.efficiency")
    result = {**origin, "rows": options.rows, "systems": found}
    text = markdown_of(origin, options.rows, found)
    write_result(RESULTS, stem_of("bulk_efficiency", origin["hardware"]), result, text)
    print(text)


def seconds_of(run: Path, rows: Path, target: str, *words: str) -> float:
    """Of a whole process."""
    started = time.perf_counter()
    subprocess.run(
        [*LEANTUNE, "predict", str(run), str(rows), "--output", target, "--quiet", *words], check=True
    )
    return time.perf_counter() - started


def rate_after_start(output: Path, processes: int) -> float:
    """Texts a second, from when every process had written its first part."""
    times = sorted(path.stat().st_mtime for path in (output / "_manifests").iterdir())
    return PART_ROWS * (len(times) - processes) / (times[-1] - times[processes - 1])


def write_rows(path: Path, rows: int) -> None:
    """Texts of the test rows, again and again."""
    with (DATA / "dev_test.csv").open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    texts = [texts[i % len(texts)] for i in range(rows)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=PART_ROWS)


def markdown_of(origin: dict[str, Any], rows: int, found: dict[str, list[dict[str, float]]]) -> str:
    lines = [
        "# Predictions of many files against one",
        "",
        f"MiniLM-L6, {rows:,} texts of AG News in row groups of {PART_ROWS:,}; medians of {len(found[PLAIN])} "
        f"alternating rounds, and of the ratios of each round. `{origin['command']}` on "
        f"{machine_name(origin['hardware'])}, {origin['hardware']['cores']} cores, {origin['date']}; "
        f"ray {ray_version()}.",
        "",
        "| | whole process, s | texts/s after the start | of the plain rate |",
        "|---|---:|---:|---:|",
    ]
    for name, runs in found.items():
        whole, rate = (median(run[key] for run in runs) for key in ("seconds", "texts_per_s"))
        share = median(
            mine["texts_per_s"] / plain["texts_per_s"] for mine, plain in zip(runs, found[PLAIN], strict=True)
        )
        lines.append(f"| {name} | {whole:.1f} | {rate:,.0f} | {100 * share:.0f} % |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
