"""Kill real training processes at random moments, resume them, compare every bit with an undisturbed run.

    python -m benchmarks.reliability.kills --kills 100 --work /tmp/kills

A third of the kills wait for a save to begin; every second chain runs as two processes under gloo. An
interrupted call goes on where it stopped; the result is written to benchmarks/results/reliability/.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.harness import Benchmark, measured_by, page, table
from benchmarks.inputs import make_tiny_inputs
from benchmarks.reliability.chain import PHASES, Chain, Kill, differences, reference

BENCHMARK = Benchmark("reliability.kills", __doc__)
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
        """Number, processes and differences of each finished chain."""
        return [entry["end"] for entry in self.entries if "end" in entry]


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and kills.jsonl")
    options = parser.parse_args()
    make_tiny_inputs(options.work / "inputs")
    log = Log(options.work / "kills.jsonl")
    references = {processes: reference(options.work, processes) for processes in PROCESSES}
    while len(log.kills) < options.kills:
        number = len(log.ends)
        processes = PROCESSES[number % len(PROCESSES)]
        chain = Chain(number, processes, options.work / "inputs", options.work / f"chain-{number}")
        run_chain(chain, log, references[processes])
    path = options.results / "reliability" / "kills.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(markdown_of(log), "utf-8")
    print(path)


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
    different = differences(chain, expected)
    log.add(end={"chain": chain.number, "processes": chain.processes, "different": different})


def markdown_of(log: Log) -> str:
    kills, ends, origin = log.kills, log.ends, BENCHMARK.origin()
    lost = [end for end in ends if end["different"]]
    counts = Counter((kill.processes, kill.phase, kill.is_in_save) for kill in kills)
    lines = []
    for processes, phase in product(PROCESSES, PHASES):
        inside, outside = counts[processes, phase, True], counts[processes, phase, False]
        lines.append([str(processes), phase, str(inside + outside), str(inside)])
    lines.append(["all", "all", str(len(kills)), str(sum(kill.is_in_save for kill in kills))])
    return page(
        f"{len(kills)} kills, {len(lost)} of {len(ends)} runs differ, {origin['date']}",
        "Real `leantune train` processes of a tiny BERT (dropout on, 96 steps, a checkpoint every 3), killed with\n"
        "SIGKILL and resumed, once in each phase of every run. At the end SHA-256 of adapter, merged model, last\n"
        "checkpoint (weights, optimiser moments, allocator averages, random generators) and predictions are those\n"
        "of a run that nobody disturbed. *In a save*: a half-written checkpoint or artefact was left behind.",
        table(["processes", "phase", "kills", "of them in a save"], lines, right=[2, 3]),
        *(f"Chain {end['chain']} differs in {', '.join(end['different'])}." for end in lost),
        f"{measured_by(origin, 'python', 'torch')}.",
    )


if __name__ == "__main__":
    main()
