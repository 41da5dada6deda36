"""How much of the rate of ``leantune predict`` is left when many files are classified: MiniLM-L6, AG News.

    python -m benchmarks.bulk.efficiency --work /tmp/bulk-efficiency [--rounds 3] [--rows 24576]

The same rows as one file by plain ``leantune predict``, and as parts by local processes and on Ray; alternating, every
one with all cores of this machine. Each also classifies the rows of two parts: the difference of the two is without the
start of the processes.
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
    seconds: dict[str, list[list[float]]] = {}
    for round_number in range(options.rounds):
        for name, words in {PLAIN: (), **SYSTEMS}.items():
            pair = []
            for file in (few, rows):
                output = work / f"{file.stem}-{round_number}-{'-'.join(words) or 'plain'}"
                target = f"{output}.parquet" if name == PLAIN else f"{output}/"
                command = [*LEANTUNE, "predict", str(run), str(file), "--output", target, "--quiet", *words]
                started = time.perf_counter()
                subprocess.run(command, check=True)
                pair.append(time.perf_counter() - started)
            seconds.setdefault(name, []).append(pair)
            print(round_number, name, pair, flush=True)
    origin = origin_of("benchmarks.bulk.efficiency")
    result = {**origin, "rows": options.rows, "seconds": seconds}
    text = markdown_of(origin, options.rows, seconds)
    write_result(RESULTS, stem_of("bulk_efficiency", origin["hardware"]), result, text)
    print(text)


def write_rows(path: Path, rows: int) -> None:
    """Texts of the test rows, again and again."""
    with (DATA / "dev_test.csv").open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    texts = [texts[i % len(texts)] for i in range(rows)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=PART_ROWS)


def markdown_of(origin: dict[str, Any], rows: int, seconds: dict[str, list[list[float]]]) -> str:
    def rate(pair: list[float]) -> float:
        """Texts a second without the start."""
        return (rows - FEW_ROWS) / (pair[1] - pair[0])

    lines = [
        "# Predictions of many files against one",
        "",
        f"MiniLM-L6, {rows:,} texts of AG News in row groups of {PART_ROWS:,}; medians of {len(seconds[PLAIN])} "
        f"alternating rounds, and of the ratios of each round. `{origin['command']}` on "
        f"{machine_name(origin['hardware'])}, {origin['hardware']['cores']} cores, {origin['date']}; "
        f"ray {ray_version()}.",
        "",
        "| | whole process, s | start, s | texts/s after the start | of the plain rate |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, pairs in seconds.items():
        whole, rates = median(pair[1] for pair in pairs), [rate(pair) for pair in pairs]
        start = median(pair[0] - FEW_ROWS / rate(pair) for pair in pairs)
        share = median(mine / rate(plain) for mine, plain in zip(rates, seconds[PLAIN], strict=True))
        lines.append(f"| {name} | {whole:.1f} | {start:.1f} | {median(rates):,.0f} | {100 * share:.0f} % |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
