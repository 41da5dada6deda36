"""Seconds until a classifier is as good as a usual pipeline's at its end: AG News, MiniLM-L6.

    python -m benchmarks.time_to_quality [--peers adalora@1e-2,lora@1e-3,adalora@1e-2@usual] [key=value ...]

Trains leantune with its defaults, and transformers' Trainer + PEFT with the adapters and learning rates of
--peers, in batches of like length (@usual: in random order, which takes more than twice as long), in fresh
processes on the shared AG News rows, under the same limit on parameters, and measures the 3,800 test rows every
--every steps. Everything is counted from the start of the process, imports, tokenizing and the linear probe
included, but not these measurements; no tokens are cached. Writes Markdown and JSON into benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result
from leantune.assets.download import fetch, resolve_location

ROOT = Path(__file__).parents[1]
LIMIT = 103_048
"""Trainable parameters: rank 11 on query and value of MiniLM and the whole head."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy on the test rows over the seconds since the process began."""

    name: str
    seconds: list[float]
    accuracies: list[float]

    def seconds_until(self, accuracy: float) -> float | None:
        """When it is first at least ``accuracy``; None: never."""
        reached = [s for s, a in zip(self.seconds, self.accuracies, strict=True) if a >= accuracy]
        return reached[0] if reached else None


def peer_curve(peer: str, options: argparse.Namespace, folder: Path) -> Curve:
    """transformers' Trainer with an adapter of PEFT; AdaLoRA's allocator is called.

    Args:
        peer: adapter, learning rate and perhaps ``usual``, between ``@``.
        options: of the command line.
        folder: to work in.
    """
    adapter, learning_rate, *order = peer.split("@")
    rank = ("--target-rank", "11") if adapter == "lora" else ()  # what the limit pays for
    words = [*rank, *([] if order == ["usual"] else ["--group-by-length"])]
    output = folder / "peer.json"
    command = [
        *(sys.executable, str(ROOT / "benchmarks" / "peer" / "trainer_peft.py")),
        *("--model", resolve_location("asset:minilm"), "--train", str(options.data / "train.csv")),
        *("--test", str(options.data / "dev_test.csv"), "--output", str(output)),
        *("--adapter", adapter, "--learning-rate", learning_rate, "--max-length", "128"),
        *("--eval-steps", str(options.every), "--attention", options.attention, *words),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=_uncached(folder))
    evaluations = json.loads(output.read_text("utf-8"))["evaluations"]
    measured_s, seconds = 0.0, []
    for evaluation in evaluations:
        measured_s += evaluation["runtime_s"]
        seconds.append(evaluation["since_start_s"] - measured_s)
    return Curve(f"PEFT {peer}", seconds, [evaluation["accuracy"] for evaluation in evaluations])


def leantune_curve(options: argparse.Namespace, folder: Path) -> Curve:
    """``leantune train`` with its defaults; the test rows stand in for validation rows, to measure only."""
    run = folder / "run"
    command = [
        *(sys.executable, "-m", "leantune", "train", "model=asset:minilm", "max_length=128"),
        *(f"data={options.data / 'train.csv'}", f"validation={options.data / 'dev_test.csv'}"),
        *(f"max_trainable_params={LIMIT}", f"evaluate_every={options.every}", f"output={run}"),
        *options.keys,
    ]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_uncached(folder)
    )
    first_step = None
    while process.poll() is None:
        if first_step is None and _events(run, "step"):
            first_step = time.perf_counter() - started  # the first step itself is in train_s, too
        time.sleep(0.1)
    if process.returncode or first_step is None:
        sys.exit(f"leantune train failed: {' '.join(command)}")
    evaluations = _events(run, "evaluation")
    timings = json.loads((run / "record.json").read_text("utf-8"))["timings"]
    begun = first_step - timings.get("baseline_s", 0)  # without warm_start there is none
    return Curve(
        "leantune",
        [begun + each["train_s"] for each in evaluations],
        [each["validation"]["accuracy"] for each in evaluations],
    )


def _uncached(folder: Path) -> dict[str, str]:
    """An environment in which nothing that an earlier run has tokenized is found."""
    return {**os.environ, "LEANTUNE_TOKEN_CACHE_MIB": "0", "HF_DATASETS_CACHE": str(folder / "datasets")}


def _events(run: Path, kind: str) -> list[dict[str, Any]]:
    history = run / "history.jsonl"
    lines = history.read_text("utf-8").splitlines() if history.is_file() else []
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return [event for event in events if event["event"] == kind]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.time_to_quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "ag_news")
    parser.add_argument("--every", type=int, default=50, help="steps between measurements")
    parser.add_argument(
        "--peers", default="adalora@1e-2,lora@1e-3", help="ADAPTER@RATE or ADAPTER@RATE@usual, by commas"
    )
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa", help="of the peers")
    parser.add_argument("keys", nargs="*", help="recipe keys for leantune, as key=value")
    options = parser.parse_args()
    fetch(["minilm"])
    if not (options.data / "train.csv").is_file():
        sys.exit(f"{options.data}: no train.csv there; give --data")
    with tempfile.TemporaryDirectory() as scratch:
        ours = leantune_curve(options, Path(scratch))
        write(ours, *(peer_curve(peer, options, Path(scratch)) for peer in options.peers.split(",")))


def write(ours: Curve, *peers: Curve) -> None:
    """The table, and the curves behind it."""
    origin = origin_of("benchmarks.time_to_quality")
    hardware, versions = origin["hardware"], origin["versions"]
    lines = [
        f"# Time to quality, AG News, MiniLM-L6, {origin['date']}",
        "",
        f"`{origin['command']}` on {machine_name(hardware)}, {hardware['cores']} cores; "
        f"torch {versions['torch']}, transformers {versions['transformers']}, PEFT {versions['peft']}; one seed. "
        "Seconds since the start of the process until as many of the 3,800 test rows are right as at the end of the "
        "run in the first column.",
        "",
        "| | right at the end | whole run | first there | leantune there | leantune is faster by |",
        "|---|---|---|---|---|---|",
        f"| {ours.name} | {100 * ours.accuracies[-1]:.2f} % | {ours.seconds[-1]:.0f} s | | | |",
    ]
    for peer in peers:
        target = peer.accuracies[-1]
        theirs, mine = peer.seconds_until(target), ours.seconds_until(target)
        assert theirs is not None
        cells = [
            peer.name,
            f"{100 * target:.2f} %",
            f"{peer.seconds[-1]:.0f} s",
            f"{theirs:.0f} s",
            "never" if mine is None else f"{mine:.0f} s",
            "" if mine is None else f"{theirs / mine:.1f}x",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    curves = {
        curve.name: {"seconds": curve.seconds, "accuracy": curve.accuracies} for curve in (ours, *peers)
    }
    stem = stem_of("time_to_quality", hardware)
    write_result(RESULTS, stem, {**origin, "curves": curves}, text)
    print(text)


if __name__ == "__main__":
    main()
