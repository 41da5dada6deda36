"""Seconds for several small classifiers: ``python -m benchmarks.train_many [--jobs 6] [--rows 1000] [--rounds 3]``.

Each job is MiniLM-L6 on other rows of AG News or Reuters R8, trained, verified and reported. They are trained by
``leantune train`` one after the other, and by ``leantune train-many`` in one process, in a process for each core, and
on a Ray cluster of this machine. Each round has all of them, in another order; the token tables are made before. Prints
a table and writes JSON and Markdown into ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.quality.data import SEED, SOURCES, files_of, read_rows
from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result
from benchmarks.speed.inputs import write_rows
from leantune.system.hardware import allowed_threads

SETS = ("agnews", "r8")
KEYS = {"model": "asset:minilm", "max_trainable_params": "100000", "max_length": "128", "epochs": "3"}
LEANTUNE = [sys.executable, "-m", "leantune.cli"]
ONE_BY_ONE = "leantune train, one after the other"


def systems() -> dict[str, list[str]]:
    """What ``train-many`` is given, by the name of the system."""
    cores = allowed_threads()
    return {
        f"train-many, one process of {cores} cores": ["--workers", "1"],
        f"train-many, {cores} processes of a core": ["--workers", str(cores)],
        f"train-many --cluster local, {cores} tasks of a core": [
            "--cluster",
            "local",
            "--cores-per-job",
            "1",
        ],
    }


def main() -> int:
    options = parse_options()
    console = Console()
    result: dict[str, Any] = {
        **origin_of("benchmarks.train_many"),
        "jobs": options.jobs,
        "rows": options.rows,
        "seconds": {name: [] for name in (ONE_BY_ONE, *systems())},
        "cpu_seconds": {name: [] for name in (ONE_BY_ONE, *systems())},
    }
    stem = stem_of("train_many", result["hardware"])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        table = write_jobs(folder, options.jobs, options.rows)
        for number in range(options.rounds):
            names = list(result["seconds"])
            random.Random(number).shuffle(names)
            for name in names:
                output = folder / f"{number} {names.index(name)}"
                seconds, cpu = train(name, table, output)
                result["seconds"][name].append(seconds)
                result["cpu_seconds"][name].append(cpu)
                console.print(f"round {number + 1}: {name}: {seconds:.1f} s, {cpu:.1f} s of processors")
                write_result(RESULTS, stem, result, markdown_of(result))
    console.print(markdown_of(result), highlight=False, soft_wrap=True)
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_many",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", type=int, default=6)
    parser.add_argument("--rows", type=int, default=1000, help="of each job")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def write_jobs(folder: Path, jobs: int, rows: int) -> Path:
    """The rows of each job, and the table."""
    table = folder / "jobs.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "data", "seed"])
        for number in range(jobs):
            name = SETS[number % len(SETS)]
            train, _ = (read_rows(path) for path in files_of(SOURCES[name]))
            chosen = random.Random(f"{SEED} {number}").sample(train, rows)
            path = write_rows(folder / f"rows-{number}.csv", chosen)
            writer.writerow([f"{name}-{number}", path, number])
            run("plan", f"data={path}", *words())  # which makes the token table
    return table


def train(name: str, table: Path, output: Path) -> tuple[float, float]:
    """Seconds of all jobs, and of processors: those of other programs are not counted, nor those of Ray's processes,
    which are no children of the command."""
    with table.open(encoding="utf-8", newline="") as file:
        jobs = list(csv.DictReader(file))
    started, before = time.perf_counter(), cpu_of_children()
    if name == ONE_BY_ONE:
        for job in jobs:
            own = [f"data={job['data']}", f"seed={job['seed']}", f"output={output / job['name']}"]
            run("train", *own, *words())
    else:
        run("train-many", str(table), "--output", str(output), *systems()[name], *words())
    seconds, cpu = time.perf_counter() - started, cpu_of_children() - before
    for job in jobs:
        record = json.loads((output / job["name"] / "record.json").read_text("utf-8"))
        assert record["status"] == "finished", job
    return seconds, cpu


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def words() -> list[str]:
    return [f"{key}={value}" for key, value in KEYS.items()]


def run(*arguments: str) -> None:
    subprocess.run([*LEANTUNE, *arguments], check=True, capture_output=True)


def markdown_of(result: dict[str, Any]) -> str:
    """A line a system: median seconds, and the share of the time of the first."""
    base = median(result["seconds"][ONE_BY_ONE]) if result["seconds"][ONE_BY_ONE] else None
    lines = [
        "# Many classifiers",
        "",
        f"{result['jobs']} jobs of {result['rows']:,} rows, MiniLM-L6, three epochs: training, verification of the "
        "artefacts and reports, from the start of the command to its end; medians of the rounds. Seconds of processors "
        "are those of the command and its children, and leave out what other programs take; Ray's processes are no "
        "children. "
        f"`{result['command']}` on {machine_name(result['hardware'])}, {result['hardware']['cores']} cores, "
        f"{result['date']}; "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items() if name != "python")
        + ".",
        "",
        "| system | seconds | rounds | share of the first | seconds of processors |",
        "|---|---|---|---|---|",
    ]
    for name, seconds in result["seconds"].items():
        if seconds:
            share = f"{100 * median(seconds) / base:.0f} %" if base else ""
            rounds = ", ".join(f"{each:.0f}" for each in seconds)
            cpu = "" if "--cluster" in name else f"{median(result['cpu_seconds'][name]):.0f}"
            lines.append(f"| {name} | {median(seconds):.0f} | {rounds} | {share} | {cpu} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
