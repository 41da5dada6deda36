"""Kill workers, nodes and the command itself while many files are classified, go on, and compare every byte.

    python -m benchmarks.bulk.kills --kills 50 --work /tmp/bulk-kills

Every second job runs in local processes, every other on a Ray cluster of three nodes on this machine. A killed node is
replaced by a new one, a killed command is started again with ``--resume``. At the end of a job its parts must be, byte
by byte, those of a job that nobody disturbed, and ``leantune predict --verify`` must find every row once and in order.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.bulk.inputs import LEANTUNE, tiny_run, write_texts
from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result

FILES, ROW_GROUPS, ROWS = 4, 12, 1500
PARTS = FILES * ROW_GROUPS
KILLS_OF_A_JOB = 5
PATIENCE_S = 180.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--work", type=Path, required=True, help="folder to work in")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of who is killed")
    options = parser.parse_args()
    run, rows = tiny_run(options.work / "inputs"), options.work / "rows"
    for number in range(FILES):
        write_texts(rows / f"{number}.parquet", ROW_GROUPS * ROWS, ROWS, seed=number)
    expected = undisturbed(run, rows, options.work / "undisturbed")
    rng, jobs = random.Random(options.seed), []
    with Nodes() as nodes:
        while sum(len(job["kills"]) for job in jobs) < options.kills:
            number = len(jobs)
            cluster = nodes if number % 2 else None
            output = options.work / f"out-{number}"
            kills = Job(run, rows, output, cluster, rng).finish(
                options.kills - sum(len(j["kills"]) for j in jobs)
            )
            found = content_of(output)
            verified = verify(run, rows, output)
            different = sorted(name for name in expected | found if expected.get(name) != found.get(name))
            jobs.append(
                {"cluster": bool(cluster), "kills": kills, "different": different, "verified": verified}
            )
            print(jobs[-1], flush=True)
    origin = origin_of("benchmarks.bulk.kills")
    write_result(
        RESULTS,
        stem_of("bulk_kills", origin["hardware"]),
        {**origin, "jobs": jobs},
        markdown_of(origin, jobs),
    )


def command_of(run: Path, rows: Path, output: Path, *more: str) -> list[str]:
    """A prediction of all rows."""
    return [*LEANTUNE, "predict", str(run), "--input", f"{rows}/*.parquet", "--output", f"{output}/", *more]


def undisturbed(run: Path, rows: Path, output: Path) -> dict[str, bytes]:
    """The parts of a job that nobody kills."""
    if not (output / "_summary.json").exists():
        subprocess.run(command_of(run, rows, output, "--quiet"), check=True)
    return content_of(output)


def content_of(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("part-*")}


def verify(run: Path, rows: Path, output: Path) -> str:
    done = subprocess.run(
        command_of(run, rows, output, "--verify"), check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


class Nodes:
    """A Ray cluster of several nodes on this machine."""

    def __enter__(self) -> Nodes:
        from ray.cluster_utils import Cluster

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self.cluster: Any = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        self.others = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self.cluster.wait_for_nodes()
        return self

    def __exit__(self, *error: object) -> None:
        self.cluster.shutdown()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def kill_one(self, rng: random.Random) -> bool:
        """Kill a node that is not the head, with all its processes; a new one takes its place."""
        node = self.others.pop(rng.randrange(len(self.others)))
        self.cluster.remove_node(node, allow_graceful=False)
        self.others.append(self.cluster.add_node(num_cpus=1))
        return True


class Job:
    """One prediction that is disturbed."""

    def __init__(self, run: Path, rows: Path, output: Path, nodes: Nodes | None, rng: random.Random) -> None:
        self._words, self._nodes, self._rng = (run, rows, output), nodes, rng
        self._process: subprocess.Popen[bytes] | None = None

    def finish(self, most: int) -> list[dict[str, Any]]:
        """Run it to its end, with kills at random moments; what was killed, and when."""
        ways: dict[str, Callable[[], bool]] = {"worker": self._kill_worker, "command": self._kill_command}
        if self._nodes is not None:
            ways["node"] = lambda: self._nodes is not None and self._nodes.kill_one(self._rng)
        moments = sorted(self._rng.sample(range(1, PARTS - 8), min(KILLS_OF_A_JOB, most)))
        kills = []
        self._start()
        for moment in moments:
            what = self._rng.choice(sorted(ways))
            self._wait(lambda moment=moment: self._done() >= moment)
            time.sleep(self._rng.random() * 0.2)
            if self._process is not None and self._process.poll() is None and ways[what]():
                kills.append({"what": what, "parts_done": self._done()})
        self._wait(lambda: self._process is not None and self._process.poll() is not None)
        assert self._process is not None
        assert self._process.returncode == 0, self._process.returncode
        return kills

    def _start(self, *more: str) -> None:
        where = (
            ("--workers", "2")
            if self._nodes is None
            else ("--cluster", self._nodes.address, "--cores-per-worker", "1")
        )
        self._process = subprocess.Popen(
            command_of(*self._words, "--quiet", *where, *more),
            start_new_session=True,
            stderr=subprocess.STDOUT,
        )

    def _wait(self, until: Callable[[], bool]) -> None:
        """Wait for ``until``, or for the end of the command."""
        ends = time.monotonic() + PATIENCE_S
        while not until() and self._process is not None and self._process.poll() is None:
            assert time.monotonic() < ends, "no part for minutes"
            time.sleep(0.005)

    def _done(self) -> int:
        return sum(1 for _ in (self._words[2] / "_manifests").glob("part-*.json"))

    def _kill_worker(self) -> bool:
        assert self._process is not None
        everything = psutil.process_iter(["cmdline", "ppid"])
        if self._nodes is None:
            workers = [
                each
                for each in everything
                if each.info["ppid"] == self._process.pid and "spawn_main" in str(each.info["cmdline"])
            ]
        else:
            workers = [each for each in everything if "MapWorker" in " ".join(each.info["cmdline"] or ())]
        if workers:
            self._rng.choice(workers).kill()
        return bool(workers)

    def _kill_command(self) -> bool:
        """With its local processes; on a cluster those of the nodes live on."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._start("--resume")
        return True


def markdown_of(origin: dict[str, Any], jobs: list[dict[str, Any]]) -> str:
    counts = Counter((job["cluster"], kill["what"]) for job in jobs for kill in job["kills"])
    lost = sum(bool(job["different"]) for job in jobs)
    lines = [
        f"# {counts.total()} kills of predictions of many files, {lost} of {len(jobs)} jobs differ",
        "",
        f"Each job: {FILES} Parquet files of {ROW_GROUPS} row groups of {ROWS:,} rows, a tiny BERT, {PARTS} parts. "
        f"`{origin['command']}` on {machine_name(origin['hardware'])}, {origin['date']}, ray {ray_version()}.",
        "",
        "| where | killed | times |",
        "|---|---|---:|",
    ]
    names = {False: "2 local processes", True: "Ray, 3 nodes"}
    lines += [f"| {names[cluster]} | {what} | {count} |" for (cluster, what), count in sorted(counts.items())]
    lines += ["", f"Every job was verified: {jobs[-1]['verified']}."]
    return "\n".join(lines) + "\n"


def ray_version() -> str:
    from importlib import metadata

    return metadata.version("ray")


if __name__ == "__main__":
    main()
