"""Seconds for several small classifiers: ``python -m benchmarks.train_many [--jobs 6] [--rows 1000] [--rounds 3]``.

Each job is MiniLM-L6 on other rows of AG News or Reuters R8, trained, verified and reported. They are trained by
``leantune train`` one after the other, and by ``leantune train-many`` in one process, in a process for each core, and
on a Ray cluster of this machine. They take turns; the token tables are made before. Prints
a table and writes JSON and Markdown into ``benchmarks/results/``.
"""

from __future__ import annotations

import csv
import json
import random
import resource
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import Benchmark, Result, measured_by, page, percent, table, timed, turns
from benchmarks.inputs import read_rows, read_table, write_rows
from benchmarks.processes import COMMAND, assignments, output_of
from benchmarks.quality.data import SEED, SOURCES, files_of
from leantune.system.hardware import allowed_threads

BENCHMARK = Benchmark("train_many", __doc__)
SETS = ("agnews", "r8")
KEYS = assignments({"model": "asset:minilm", "max_trainable_params": 100_000, "max_length": 128, "epochs": 3})
ONE_BY_ONE = "leantune train, one after the other"


def systems() -> dict[str, list[str]]:
    """What ``train-many`` is given, by the name of the system; nothing where it is not used."""
    cores = allowed_threads()
    cluster = ["--cluster", "local", "--cores-per-job", "1"]
    return {
        ONE_BY_ONE: [],
        f"train-many, one process of {cores} cores": ["--workers", "1"],
        f"train-many, {cores} processes of a core": ["--workers", str(cores)],
        f"train-many --cluster local, {cores} tasks of a core": cluster,
    }


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--jobs", type=int, default=6)
    parser.add_argument("--rows", type=int, default=1000, help="for each job")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    result: dict[str, Any] = {**BENCHMARK.origin(), "jobs": options.jobs, "rows": options.rows}
    result |= {key: {name: [] for name in systems()} for key in ("seconds", "cpu_seconds")}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        jobs = write_jobs(folder, options.jobs, options.rows)
        for number, (name, words) in turns(tuple(systems().items()), options.rounds):
            output = folder / f"{number}-{len(words)}-{'-'.join(words)}"
            before = cpu_of_children()
            _, seconds = timed(lambda words=words, output=output: train(words, jobs, output))
            cpu = cpu_of_children() - before
            check(jobs, output)
            result["seconds"][name].append(seconds)
            result["cpu_seconds"][name].append(cpu)
            print(f"round {number + 1}: {name}: {seconds:.1f} s, {cpu:.1f} s of processors", flush=True)
            BENCHMARK.write(options.results, result, markdown_of(result))
    BENCHMARK.publish(options.results, result, markdown_of(result))


def write_jobs(folder: Path, jobs: int, rows: int) -> Path:
    """The rows of each job, and the table."""
    path = folder / "jobs.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "data", "seed"])
        for number in range(jobs):
            name = SETS[number % len(SETS)]
            train_rows = read_rows(files_of(SOURCES[name])[0])
            chosen = random.Random(f"{SEED} {number}").sample(train_rows, rows)
            data = write_rows(folder / f"rows-{number}.csv", chosen)
            writer.writerow([f"{name}-{number}", data, number])
            output_of([*COMMAND, "plan", f"data={data}", *KEYS])  # which makes the token table
    return path


def train(words: list[str], jobs: Path, output: Path) -> None:
    """All jobs, by ``train-many`` with ``words``, or one by one."""
    if words:
        output_of([*COMMAND, "train-many", str(jobs), "--output", str(output), *words, *KEYS])
        return
    for job in read_table(jobs):
        own = {"data": job["data"], "seed": job["seed"], "output": output / job["name"]}
        output_of([*COMMAND, "train", *assignments(own), *KEYS])


def check(jobs: Path, output: Path) -> None:
    """Every job must have ended well."""
    for job in read_table(jobs):
        record = json.loads((output / job["name"] / "record.json").read_text("utf-8"))
        assert record["status"] == "finished", job


def cpu_of_children() -> float:
    """Seconds of processors: other programs are not counted, nor Ray's processes, which are no children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def markdown_of(result: Result) -> str:
    """A line a system: median seconds, and the share of the time of the first."""
    base, lines = result["seconds"][ONE_BY_ONE], []
    for name, seconds in result["seconds"].items():
        if seconds:
            share = percent(median(seconds) / median(base), 0) if base else ""
            rounds = ", ".join(f"{each:.0f}" for each in seconds)
            cpu = "" if "--cluster" in name else f"{median(result['cpu_seconds'][name]):.0f}"
            lines.append([name, f"{median(seconds):.0f}", rounds, share, cpu])
    return page(
        "Many classifiers",
        f"{result['jobs']} jobs of {result['rows']:,} rows, MiniLM-L6, three epochs: training, verification of the "
        "artefacts and reports, from the start of the command to its end; medians of the rounds. Seconds of processors "
        "are those of the command and its children, and leave out what other programs take; Ray's processes are no "
        f"children. {measured_by(result, 'torch', 'transformers')}.",
        table(["system", "seconds", "rounds", "share of the first", "seconds of processors"], lines),
    )


if __name__ == "__main__":
    main()
