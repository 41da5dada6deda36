"""Kill workers, nodes and the command itself while many files are classified, go on, and compare every byte.

    python -m benchmarks.bulk.kills --kills 50 --work /tmp/bulk-kills

Every second job runs in local processes, every other on a Ray cluster of three nodes on this machine. A killed node is
replaced by a new one, a killed command is started again with ``--resume``. At the end of a job its parts must be, byte
by byte, those of a job that nobody disturbed, and ``leantune predict --verify`` must find every row once and in order.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import Benchmark, Result, measured_by, page, table
from benchmarks.inputs import tiny_run, write_texts
from benchmarks.processes import COMMAND, output_of, wait_for
from benchmarks.reliability.nodes import Nodes

BENCHMARK = Benchmark("bulk.kills", __doc__)
FILES, ROW_GROUPS, ROWS = 4, 12, 1500
PARTS = FILES * ROW_GROUPS
KILLS_OF_A_JOB = 5
PATIENCE_S = 180.0


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--work", type=Path, required=True, help="folder to work in")
    parser.add_argument("--seed", type=int, default=0, help="for the moments and for who is killed")
    options = parser.parse_args()
    run, rows = tiny_run(options.work / "inputs"), options.work / "rows"
    for number in range(FILES):
        write_texts(rows / f"{number}.parquet", ROW_GROUPS * ROWS, ROWS, seed=number)
    expected = undisturbed(run, rows, options.work / "undisturbed")
    rng, left = random.Random(options.seed), options.kills
    jobs: list[dict[str, Any]] = []
    with Nodes(3) as nodes:
        while left > 0:
            cluster, output = nodes if len(jobs) % 2 else None, options.work / f"out-{len(jobs)}"
            kills = Job(run, rows, output, cluster, rng).finish(min(KILLS_OF_A_JOB, left))
            left -= len(kills)
            found = content_of(output)
            verified = output_of(command_of(run, rows, output, "--verify")).strip()
            different = sorted(name for name in expected | found if expected.get(name) != found.get(name))
            jobs.append(
                {"cluster": bool(cluster), "kills": kills, "different": different, "verified": verified}
            )
            print(jobs[-1], flush=True)
    result = {**BENCHMARK.origin(), "jobs": jobs}
    result["versions"]["ray"] = metadata.version("ray")
    BENCHMARK.publish(options.results, result, markdown_of(result))


def command_of(run: Path, rows: Path, output: Path, *more: str) -> list[str]:
    """A prediction of all rows."""
    return [*COMMAND, "predict", str(run), "--input", f"{rows}/*.parquet", "--output", f"{output}/", *more]


def undisturbed(run: Path, rows: Path, output: Path) -> dict[str, bytes]:
    """The parts of a job that nobody kills."""
    if not (output / "_summary.json").exists():
        output_of(command_of(run, rows, output, "--quiet"))
    return content_of(output)


def content_of(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("part-*")}


class Job:
    """One prediction that is disturbed."""

    def __init__(self, run: Path, rows: Path, output: Path, nodes: Nodes | None, rng: random.Random) -> None:
        self._words, self._nodes, self._rng = (run, rows, output), nodes, rng
        self._process = self._started()

    def finish(self, most: int) -> list[dict[str, Any]]:
        """Let it run to its end, with ``most`` kills at random moments; what was killed, and when."""
        ways: dict[str, Callable[[], bool]] = {"worker": self._kill_worker, "command": self._kill_command}
        if self._nodes is not None:
            ways["node"] = lambda: self._nodes is not None and self._nodes.kill_one(self._rng)
        kills = []
        for moment in sorted(self._rng.sample(range(1, PARTS - 8), most)):
            what = self._rng.choice(sorted(ways))
            self._wait(lambda moment=moment: self._done() >= moment)
            time.sleep(self._rng.random() * 0.2)
            if self._process.poll() is None and ways[what]():
                kills.append({"what": what, "parts_done": self._done()})
        self._wait(lambda: False)
        assert self._process.returncode == 0, self._process.returncode
        return kills

    def _started(self, *more: str) -> subprocess.Popen[bytes]:
        where = ("--workers", "2")
        if self._nodes is not None:
            where = ("--cluster", self._nodes.address, "--cores-per-worker", "1")
        command = command_of(*self._words, "--quiet", *where, *more)
        return subprocess.Popen(command, start_new_session=True, stderr=subprocess.STDOUT)

    def _wait(self, is_there: Callable[[], bool]) -> None:
        wait_for(self._process, is_there, pause_s=0.005, patience_s=PATIENCE_S)

    def _done(self) -> int:
        return sum(1 for _ in (self._words[2] / "_manifests").glob("part-*.json"))

    def _kill_worker(self) -> bool:
        name, parent = ("spawn_main", self._process.pid) if self._nodes is None else ("MapWorker", None)
        workers = [
            each
            for each in psutil.process_iter(["cmdline", "ppid"])
            if name in " ".join(each.info["cmdline"] or ()) and parent in (None, each.info["ppid"])
        ]
        if workers:
            self._rng.choice(workers).kill()
        return bool(workers)

    def _kill_command(self) -> bool:
        """With its local processes; on a cluster those of the nodes live on."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = self._started("--resume")
        return True


def markdown_of(result: Result) -> str:
    jobs = result["jobs"]
    counts = Counter((job["cluster"], kill["what"]) for job in jobs for kill in job["kills"])
    lost = sum(bool(job["different"]) for job in jobs)
    names = {False: "2 local processes", True: "Ray, 3 nodes"}
    lines = [[names[cluster], what, str(count)] for (cluster, what), count in sorted(counts.items())]
    return page(
        f"{counts.total()} kills of predictions of many files, {lost} of {len(jobs)} jobs differ",
        f"Each job: {FILES} Parquet files of {ROW_GROUPS} row groups of {ROWS:,} rows, a tiny BERT, {PARTS} parts. "
        f"{measured_by(result, 'ray')}.",
        table(["where", "killed", "times"], lines, right=[2]),
        f"Every job was verified: {jobs[-1]['verified']}.",
    )


if __name__ == "__main__":
    main()
