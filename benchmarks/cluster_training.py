"""Kill workers of runs on a Ray cluster of two nodes at random moments; compare every bit with torchrun's run.

    python -m benchmarks.cluster_training --kills 20 --work /tmp/cluster-training

The nodes are two raylets of this machine, of one core each. Every kill is SIGKILL of one worker; Ray starts both again.
The result is written to benchmarks/results/cluster_training/.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.reliability.chain import SETTINGS, Chain, descendants
from benchmarks.reliability.kills import make_inputs, reference
from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result

KILLS_OF_A_RUN = 5
STEPS = 96
"""Of the runs of `SETTINGS`, and so the last moment of a kill: after it the artefacts are written."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL of a worker."""

    run: int
    rank: int
    step: int
    """The last step that history.jsonl had."""
    is_in_save: bool
    """Whether a half-written checkpoint or artefact was left behind."""
    recovery_s: float
    """Until the run had written again."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    options = parser.parse_args()
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    make_inputs(options.work / "inputs")
    expected = reference(options.work, 2)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    try:
        result = measure(cluster, options.work, options.kills, expected)
    finally:
        cluster.shutdown()
    result |= origin_of("benchmarks.cluster_training")
    result["versions"]["ray"] = metadata.version("ray")
    for path in write_result(
        RESULTS, stem_of("cluster_training", result["hardware"]), result, report(result)
    ):
        print(path)


def measure(cluster: Any, work: Path, num_kills: int, expected: dict[str, str]) -> dict[str, Any]:
    """Runs that are killed until there were enough kills, and one of each kind that nobody disturbs."""
    kills: list[Kill] = []
    different: list[list[str]] = []
    while len(kills) < num_kills:
        number = len(different)
        chain = Chain(number, 2, work / "inputs", work / f"run-{number}")
        kills += killed_run(cluster, chain, min(KILLS_OF_A_RUN, num_kills - len(kills)))
        found = chain.fingerprint()
        different.append([name for name in expected if found[name] != expected[name]])
        print(f"run {number}: {len(kills)} kills so far, differs in {different[-1]}", flush=True)
    undisturbed = {
        "torchrun_s": seconds(lambda: Chain(-2, 2, work / "inputs", work / "alone-torchrun").start()),
        "cluster_s": seconds(lambda: start(cluster, Chain(-3, 2, work / "inputs", work / "alone-cluster"))),
    }
    return {
        "kills": [asdict(kill) for kill in kills],
        "different": different,
        "undisturbed": undisturbed,
        "load": round(os.getloadavg()[2], 1),
    }


def start(cluster: Any, chain: Chain) -> subprocess.Popen[bytes]:
    """Begin a run on the cluster."""
    names = {"data": "train.csv", "test": "test.csv", "model": "encoder"}
    words = [f"{key}={chain.inputs / name}" for key, name in names.items()]
    flags = ["--cluster", cluster.address, "--num-workers", "2", "--max-failures", "100"]
    command = [sys.executable, "-m", "leantune", "train", f"output={chain.run}", *words, *SETTINGS, *flags]
    with chain.log.open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def seconds(begin: Callable[[], subprocess.Popen[bytes]]) -> float:
    """Of a command from start to end.

    Raises:
        RuntimeError: if it fails.
    """
    started = time.perf_counter()
    process = begin()
    if process.wait():
        raise RuntimeError(f"{process.args} ends with {process.returncode}")
    return round(time.perf_counter() - started, 2)


def killed_run(cluster: Any, chain: Chain, num_kills: int) -> list[Kill]:
    """One run whose workers are killed at random steps; kills that come too late are left out.

    Raises:
        RuntimeError: with the end of its log, if it fails.
    """
    rng = random.Random(chain.number)
    process = start(cluster, chain)
    kills = []
    for step in sorted(rng.choices(range(STEPS + 1), k=num_kills)):
        started_ns = time.time_ns()
        if not wait(process, lambda step=step, since=started_ns: has_reached(chain, step, since)):
            break
        time.sleep(rng.uniform(0, 0.05))
        both, rank = both_workers(cluster, chain), rng.randrange(2)
        if both is None:
            break
        os.kill(both[rank], signal.SIGKILL)
        killed_ns = time.time_ns()
        last, is_in_save = chain.last_step(), bool(chain.half_written())
        wait(process, lambda since=killed_ns: written_since(chain, since + 10**9))
        kills.append(Kill(chain.number, rank, last, is_in_save, round((time.time_ns() - killed_ns) / 1e9, 2)))
        print(kills[-1], flush=True)
    if process.wait():
        raise RuntimeError(f"{chain.run} failed: {chain.log.read_text('utf-8')[-3000:]}")
    return kills


def has_reached(chain: Chain, step: int, since_ns: int) -> bool:
    return chain.last_step() >= step and written_since(chain, since_ns)


def written_since(chain: Chain, moment_ns: int) -> bool:
    """Whether history.jsonl was written after a moment, and so by workers that were started after it."""
    history = chain.run / "history.jsonl"
    return history.exists() and history.stat().st_mtime_ns > moment_ns


def wait(process: subprocess.Popen[bytes], is_there: Callable[[], bool]) -> bool:
    while process.poll() is None:
        if is_there():
            return True
        time.sleep(0.002)
    return False


def both_workers(cluster: Any, chain: Chain) -> tuple[int, int] | None:
    """The processes of rank 0, which holds the run folder, and rank 1; None after the end."""
    lock = chain.run / "run.lock"
    with suppress(FileNotFoundError):
        while True:
            main = int(lock.read_text("utf-8").split()[1])
            others = [pid for pid in workers_of(cluster) if pid != main]
            if len(others) == 1:  # a worker has another name while it is told something
                return main, others[0]
            time.sleep(0.002)
    return None


def workers_of(cluster: Any) -> list[int]:
    """The worker processes of Ray Train on the nodes of this cluster."""
    raylets = [each.process.pid for node in cluster.list_all_nodes() for each in node.all_processes["raylet"]]
    found = {pid for raylet in raylets for pid in descendants(raylet)}
    return sorted(pid for pid in found if b"RayTrainWorker" in command_line(pid))


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it ended between the look and the read
        return b""


def report(result: dict[str, Any]) -> str:
    """The result as a page."""
    kills: Sequence[dict[str, Any]] = result["kills"]
    different = [number for number, names in enumerate(result["different"]) if names]
    recovery = sorted(kill["recovery_s"] for kill in kills)
    alone, versions = result["undisturbed"], result["versions"]
    return "\n".join(
        [
            f"# {len(kills)} workers killed, {len(different)} of {len(result['different'])} runs differ, "
            f"{result['date']}",
            "",
            "Real `leantune train --cluster ADDRESS --num-workers 2` of a tiny BERT (dropout on, 96 steps, a",
            "checkpoint every 3) on two raylets of one core each. One worker was killed with SIGKILL at a random",
            "step, and Ray Train started both again, up to five times a run. At the end SHA-256 of adapter, merged",
            "model, last checkpoint and predictions are those of two processes of torchrun that nobody disturbed.",
            "",
            "| killed | kills | before step 32 | to step 63 | to step 96 | while something was saved |",
            "|---|---:|---:|---:|---:|---:|",
            *(row_of([kill for kill in kills if kill["rank"] == rank], f"worker {rank}") for rank in (0, 1)),
            row_of(kills, "all"),
            "",
            "From a kill to the next line of history.jsonl, or the end of the command: median "
            f"{statistics.median(recovery):.1f} s, most {recovery[-1]:.1f} s. Without kills the command takes "
            f"{alone['cluster_s']:.1f} s on the cluster, and "
            f"{alone['torchrun_s']:.1f} s under torchrun, processes and imports included.",
            f"Meanwhile {result['load']} processes wanted the {os.cpu_count()} cores (load average of 15 minutes).",
            "",
            f"Machine: {machine_name(result['hardware'])}, {os.cpu_count()} cores. Python {versions['python']}, "
            f"torch {versions['torch']}, ray {versions['ray']}.",
            "",
            f"`{result['command']}`",
            "",
        ]
    )


def row_of(kills: Sequence[dict[str, Any]], title: str) -> str:
    thirds = [sum(kill["step"] * 3 // (STEPS + 1) == third for kill in kills) for third in range(3)]
    in_save = sum(kill["is_in_save"] for kill in kills)
    return f"| {title} | {len(kills)} | {' | '.join(map(str, thirds))} | {in_save} |"


if __name__ == "__main__":
    main()
