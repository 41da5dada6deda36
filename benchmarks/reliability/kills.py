"""Kill real training processes at random moments, resume them, compare every bit with an undisturbed run.

    python -m benchmarks.reliability.kills --kills 100 --work /tmp/kills

A third of the kills wait for a save to begin; every second chain runs as two processes under gloo. An
interrupted call goes on where it stopped; the result is written to benchmarks/results/reliability/.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.reliability.chain import PHASES, Chain, Kill
from benchmarks.results_folder import RESULTS, machine_name
from leantune.system.hardware import describe_hardware, describe_versions, pick_device

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from tiny import save_tiny_encoder, write_rows

PROCESSES = (1, 2)


class Log:
    """``kills.jsonl``: every kill and the end of every chain, so that an interrupted call can go on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        self.entries: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def add(self, **entry: Any) -> None:
        """Append one entry."""
        self.entries.append(entry)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    @property
    def kills(self) -> list[Kill]:
        """All kills so far."""
        return [Kill(**entry["kill"]) for entry in self.entries if "kill" in entry]

    @property
    def ends(self) -> list[dict[str, Any]]:
        """Of each finished chain: number, processes, what differs."""
        return [entry["end"] for entry in self.entries if "end" in entry]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and kills.jsonl")
    options = parser.parse_args()
    make_inputs(options.work / "inputs")
    log = Log(options.work / "kills.jsonl")
    references = {processes: reference(options.work, processes) for processes in PROCESSES}
    while len(log.kills) < options.kills:
        number = len(log.ends)
        processes = PROCESSES[number % len(PROCESSES)]
        chain = Chain(number, processes, options.work / "inputs", options.work / f"chain-{number}")
        run_chain(chain, log, references[processes])
    path = RESULTS / "reliability" / "kills.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(report(log), "utf-8")
    print(path)


def make_inputs(folder: Path) -> None:
    """A tiny encoder with dropout and some rows, made once."""
    if not (folder / "test.csv").exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_tiny_encoder(folder / "encoder")
        write_rows(folder / "train.csv", 240)
        write_rows(folder / "test.csv", 60, seed=1)


def reference(work: Path, processes: int) -> dict[str, str]:
    """What a run gives that nobody disturbs."""
    chain = Chain(-1, processes, work / "inputs", work / f"reference-{processes}")
    if not (chain.run / "merged").exists():
        chain.finish()
    return chain.fingerprint()


def run_chain(chain: Chain, log: Log, expected: dict[str, str]) -> None:
    """Kill it once in each phase that it has not been killed in, let it finish, compare."""
    done = {kill.aim for kill in log.kills if kill.chain == chain.number}
    for phase in PHASES:
        if phase in done:
            continue
        kill = chain.kill_in(phase, in_save=(chain.number + PHASES.index(phase)) % 3 == 0)
        if kill is not None:
            log.add(kill=asdict(kill))
            print(kill, flush=True)
    chain.finish()
    found = chain.fingerprint()
    different = [name for name in expected if found[name] != expected[name]]
    log.add(end={"chain": chain.number, "processes": chain.processes, "different": different})


def report(log: Log) -> str:
    """The result as a page."""
    kills, ends = log.kills, log.ends
    lost = [end for end in ends if end["different"]]
    counts = Counter((kill.processes, kill.phase, kill.is_in_save) for kill in kills)
    lines = [
        f"# {len(kills)} kills, {len(lost)} of {len(ends)} runs differ, {date.today()}",
        "",
        "Real `leantune train` processes of a tiny BERT (dropout on, 96 steps, a checkpoint every 3), killed with",
        "SIGKILL and resumed, once in each phase of every run. At the end SHA-256 of adapter, merged model, last",
        "checkpoint (weights, optimiser moments, allocator averages, random generators) and predictions are those",
        "of a run that nobody disturbed. *In a save*: a half-written checkpoint or artefact was left behind.",
        "",
        "| processes | phase | kills | of them in a save |",
        "|---|---|---:|---:|",
    ]
    for processes in PROCESSES:
        for phase in PHASES:
            inside, outside = counts[processes, phase, True], counts[processes, phase, False]
            lines.append(f"| {processes} | {phase} | {inside + outside} | {inside} |")
    total_inside = sum(kill.is_in_save for kill in kills)
    lines += [f"| all | all | {len(kills)} | {total_inside} |", ""]
    lines += [f"Chain {end['chain']} differs in {', '.join(end['different'])}." for end in lost]
    hardware, versions = describe_hardware(pick_device()), describe_versions()
    lines += [
        f"Machine: {machine_name(hardware)}, {os.cpu_count()} cores. "
        + ", ".join(f"{name} {version}" for name, version in versions.items() if name in ("python", "torch"))
        + ".",
        "",
        "`python -m benchmarks.reliability.kills --kills 100 --work /tmp/kills`",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
