"""Kill workers of runs on a Ray cluster of two nodes at random moments; compare every bit with torchrun's run.

    python -m benchmarks.cluster_training --kills 20 --work /tmp/cluster-training

The nodes are two raylets of this machine, of one core each. Every kill is SIGKILL of one worker; Ray starts both again.
The result is written to benchmarks/results/cluster_training/.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import Benchmark, Result, measured_by, page, table, timed
from benchmarks.inputs import make_tiny_inputs
from benchmarks.processes import COMMAND, wait_for
from benchmarks.reliability.chain import SETTINGS, Chain, descendants, differences, reference
from benchmarks.reliability.nodes import Nodes

BENCHMARK = Benchmark("cluster_training", __doc__)
KILLS_OF_A_RUN = 5
STEPS = 96
"""How many the runs of `SETTINGS` take, and so the last moment of a kill: after it the artefacts are written."""


Kill = dict[str, Any]
"""One SIGKILL: the ``run`` and the ``rank`` of the worker that it hit, the last ``step`` that history.jsonl had,
whether it ``is_in_save`` and left something half-written, and ``recovery_s`` until the run had written again."""


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    options = parser.parse_args()
    make_tiny_inputs(options.work / "inputs")
    expected = reference(options.work, 2)
    with Nodes(2) as nodes:
        result = {**measure(nodes, options.work, options.kills, expected), **BENCHMARK.origin()}
    result["versions"]["ray"] = metadata.version("ray")
    BENCHMARK.publish(options.results, result, markdown_of(result))


def measure(nodes: Nodes, work: Path, num_kills: int, expected: dict[str, str]) -> dict[str, Any]:
    """Runs that are killed until there were enough kills, and one of each kind that nobody disturbs."""
    kills: list[Kill] = []
    different: list[list[str]] = []
    while len(kills) < num_kills:
        number = len(different)
        chain = Chain(number, 2, work / "inputs", work / f"run-{number}")
        kills += killed_run(nodes, chain, min(KILLS_OF_A_RUN, num_kills - len(kills)))
        different.append(differences(chain, expected))
        print(f"run {number}: {len(kills)} kills so far, differs in {different[-1]}", flush=True)
    undisturbed = {
        "torchrun_s": seconds(lambda: Chain(-2, 2, work / "inputs", work / "alone-torchrun").start()),
        "cluster_s": seconds(lambda: start(nodes, Chain(-3, 2, work / "inputs", work / "alone-cluster"))),
    }
    return {
        "kills": kills,
        "different": different,
        "undisturbed": undisturbed,
        "load": round(os.getloadavg()[2], 1),
    }


def start(nodes: Nodes, chain: Chain) -> subprocess.Popen[bytes]:
    """Begin a run on the cluster."""
    flags = ["--cluster", nodes.address, "--num-workers", "2", "--max-failures", "100"]
    return chain.begin([*COMMAND, "train", f"output={chain.run}", *chain.files, *SETTINGS, *flags])


def seconds(begin: Callable[[], subprocess.Popen[bytes]]) -> float:
    """How long a command takes from start to end.

    Raises:
        RuntimeError: if it fails.
    """

    def whole() -> None:
        process = begin()
        if process.wait():
            raise RuntimeError(f"{process.args} ends with {process.returncode}")

    return round(timed(whole)[1], 2)


def killed_run(nodes: Nodes, chain: Chain, num_kills: int) -> list[Kill]:
    """One run whose workers are killed at random steps; kills that come too late are left out.

    Raises:
        RuntimeError: with the end of its log, if it fails.
    """
    rng = random.Random(chain.number)
    process = start(nodes, chain)
    kills = []
    for step in sorted(rng.choices(range(STEPS + 1), k=num_kills)):
        started_ns = time.time_ns()
        if not wait_for(process, lambda step=step, since=started_ns: has_reached(chain, step, since)):
            break
        time.sleep(rng.uniform(0, 0.05))
        both, rank = both_workers(nodes, chain), rng.randrange(2)
        if both is None:
            break
        os.kill(both[rank], signal.SIGKILL)
        killed_ns = time.time_ns()
        kill = {"run": chain.number, "rank": rank, "step": chain.last_step()}
        kill["is_in_save"] = bool(chain.half_written())
        wait_for(process, lambda since=killed_ns: written_since(chain, since + 10**9))
        kills.append({**kill, "recovery_s": round((time.time_ns() - killed_ns) / 1e9, 2)})
        print(kills[-1], flush=True)
    process.wait()
    chain.check(process)
    return kills


def has_reached(chain: Chain, step: int, since_ns: int) -> bool:
    return chain.last_step() >= step and written_since(chain, since_ns)


def written_since(chain: Chain, moment_ns: int) -> bool:
    """Whether history.jsonl was written after a moment, and so by workers that were started after it."""
    history = chain.run / "history.jsonl"
    return history.exists() and history.stat().st_mtime_ns > moment_ns


def both_workers(nodes: Nodes, chain: Chain) -> tuple[int, int] | None:
    """The processes of rank 0, which holds the run folder, and rank 1; None after the end."""
    lock = chain.run / "run.lock"
    with suppress(FileNotFoundError):
        while True:
            main = int(lock.read_text("utf-8").split()[1])
            others = [pid for pid in workers_on(nodes) if pid != main]
            if len(others) == 1:  # a worker has another name while it is told something
                return main, others[0]
            time.sleep(0.002)
    return None


def workers_on(nodes: Nodes) -> list[int]:
    """The worker processes of Ray Train."""
    found = {pid for raylet in nodes.raylets() for pid in descendants(raylet)}
    return sorted(pid for pid in found if b"RayTrainWorker" in command_line(pid))


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it ended between the look and the read
        return b""


def markdown_of(result: Result) -> str:
    kills = result["kills"]
    different = [number for number, names in enumerate(result["different"]) if names]
    recovery = sorted(kill["recovery_s"] for kill in kills)
    alone = result["undisturbed"]

    def row(title: str, kills: list[Kill]) -> list[str]:
        thirds = [sum(kill["step"] * 3 // (STEPS + 1) == third for kill in kills) for third in range(3)]
        in_save = sum(kill["is_in_save"] for kill in kills)
        return [title, *map(str, (len(kills), *thirds, in_save))]

    return page(
        f"{len(kills)} workers killed, {len(different)} of {len(result['different'])} runs differ, {result['date']}",
        "Real `leantune train --cluster ADDRESS --num-workers 2` of a tiny BERT (dropout on, 96 steps, a\n"
        "checkpoint every 3) on two raylets of one core each. One worker was killed with SIGKILL at a random\n"
        "step, and Ray Train started both again, up to five times a run. At the end SHA-256 of adapter, merged\n"
        "model, last checkpoint and predictions are those of two processes of torchrun that nobody disturbed.",
        table(
            ["killed", "kills", "before step 32", "to step 63", "to step 96", "while something was saved"],
            [
                *(row(f"worker {rank}", [k for k in kills if k["rank"] == rank]) for rank in (0, 1)),
                row("all", kills),
            ],
            right=range(1, 6),
        ),
        "From a kill to the next line of history.jsonl, or the end of the command: median "
        f"{median(recovery):.1f} s, most {recovery[-1]:.1f} s. Without kills the command takes "
        f"{alone['cluster_s']:.1f} s on the cluster, and {alone['torchrun_s']:.1f} s under torchrun, processes and "
        f"imports included. Meanwhile {result['load']} processes wanted the {os.cpu_count()} cores (load average of "
        "15 minutes).",
        f"{measured_by(result, 'python', 'torch', 'ray')}.",
    )


if __name__ == "__main__":
    main()
