"""Seconds until a classifier is as good as a usual pipeline's at its end: AG News, MiniLM-L6.

    python -m benchmarks.time_to_quality [--peers adalora@1e-2,lora@1e-3,adalora@1e-2@usual] [--seeds 3] [key=value ...]

Trains leantune with its defaults, and transformers' Trainer + PEFT with the adapters and learning rates of
--peers, in batches of like length (@usual: in random order, which takes more than twice as long), in fresh
processes on the shared AG News rows, under the same limit on parameters, and measures the 3,800 test rows every
--every steps. Everything is counted from the start of the process, imports, tokenizing and the linear probe
included, but not these measurements; no tokens are cached. Seeds alternate: each system runs once before any runs
twice. Seconds, rate and memory are those of the first seed, which needs a machine without other work; the others tell
how much accuracy varies. Runs whose result is there are not made again. Writes Markdown and JSON into
benchmarks/results/ after each run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.harness import ROOT, Benchmark, Result, measured_by, page, percent, table, words
from benchmarks.inputs import AG_NEWS
from benchmarks.processes import COMMAND, assignments
from leantune.assets.download import fetch, resolve_location

BENCHMARK = Benchmark("time_to_quality", __doc__)
LIMIT = 103_048
"""Trainable parameters: rank 11 on query and value of MiniLM and the whole head."""

OURS = {"leantune": (), "leantune, AdaLoRA on query and value": ("method=adalora", "targets=query,value")}
"""Names of leantune's lines, and the recipe keys of each."""
BATCH = 32


Curve = dict[str, Any]
"""A run: its ``seed``; the ``accuracy`` on the test rows after so many ``seconds`` since the process began;
``texts_per_s`` while it trains, between the first and the last measurement and without them; ``peak_rss_bytes``."""


def peer_curve(peer: str, seed: int, options: argparse.Namespace, folder: Path) -> Curve:
    """transformers' Trainer with an adapter of PEFT; AdaLoRA's allocator is called.

    Args:
        peer: adapter, learning rate and perhaps ``usual``, between ``@``.
        seed: for batches, dropout and new weights.
        options: from the command line.
        folder: to work in.
    """
    adapter, learning_rate, *order = peer.split("@")
    rank = ("--target-rank", "11") if adapter == "lora" else ()  # what the limit pays for
    words = [*rank, *([] if order == ["usual"] else ["--group-by-length"])]
    output = folder / "peer.json"
    command = [
        *(sys.executable, str(ROOT / "benchmarks" / "peer" / "trainer_peft.py")),
        *("--model", resolve_location("asset:minilm"), "--train", str(options.data / "train.csv")),
        *("--test", str(options.data / "dev_test.csv"), "--output", str(output), "--seed", str(seed)),
        *("--adapter", adapter, "--learning-rate", learning_rate, "--max-length", "128"),
        *("--eval-steps", str(options.every), "--attention", options.attention, *words),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=_uncached(folder))
    result = json.loads(output.read_text("utf-8"))
    evaluations = result["evaluations"]
    measured_s, seconds = 0.0, []
    for evaluation in evaluations:
        measured_s += evaluation["runtime_s"]
        seconds.append(evaluation["since_start_s"] - measured_s)
    accuracy = [evaluation["accuracy"] for evaluation in evaluations]
    steps = evaluations[-1]["step"] - evaluations[0]["step"]
    rate = BATCH * steps / (evaluations[-1]["train_s"] - evaluations[0]["train_s"])
    return {
        **{"seed": seed, "seconds": seconds, "accuracy": accuracy, "texts_per_s": rate},
        "peak_rss_bytes": result["peak_rss_bytes"],
    }


def leantune_curve(keys: tuple[str, ...], seed: int, options: argparse.Namespace, folder: Path) -> Curve:
    """``leantune train`` with ``keys``; the test rows stand in for validation rows, to measure only."""
    run = folder / f"run-{seed}-{len(keys)}"
    files = {"data": options.data / "train.csv", "validation": options.data / "dev_test.csv", "output": run}
    sizes = {"max_length": 128, "max_trainable_params": LIMIT, "evaluate_every": options.every, "seed": seed}
    recipe = assignments({"model": "asset:minilm", **files, **sizes})
    command = [*COMMAND, "train", *recipe, *keys, *options.keys]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_uncached(folder)
    )
    first_step, status = None, None
    while status is None:
        if first_step is None and _events(run, "step"):
            first_step = time.perf_counter() - started  # the first step itself is in train_s, too
        time.sleep(0.1)
        ended, code, usage = os.wait4(process.pid, os.WNOHANG)
        status = code if ended else None
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or first_step is None:
        sys.exit(f"leantune train failed: {' '.join(command)}")
    evaluations = _events(run, "evaluation")
    timings = json.loads((run / "record.json").read_text("utf-8"))["timings"]
    begun = first_step - timings.get("baseline_s", 0)  # without warm_start there is none
    steps = evaluations[-1]["step"] - evaluations[0]["step"]
    return {
        "seed": seed,
        "seconds": [begun + each["train_s"] for each in evaluations],
        "accuracy": [each["validation"]["accuracy"] for each in evaluations],
        "texts_per_s": BATCH * steps / (evaluations[-1]["train_s"] - evaluations[0]["train_s"]),
        "peak_rss_bytes": usage.ru_maxrss * 1024,
    }


def _uncached(folder: Path) -> dict[str, str]:
    """An environment in which nothing that an earlier run has tokenized is found."""
    return {**os.environ, "LEANTUNE_TOKEN_CACHE_MIB": "0", "HF_DATASETS_CACHE": str(folder / "datasets")}


def _events(run: Path, kind: str) -> list[dict[str, Any]]:
    history = run / "history.jsonl"
    lines = history.read_text("utf-8").splitlines() if history.is_file() else []
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return [event for event in events if event["event"] == kind]


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--data", type=Path, default=AG_NEWS)
    parser.add_argument("--every", type=int, default=50, help="steps between measurements")
    parser.add_argument(
        "--peers",
        type=words,
        default="adalora@1e-2,lora@1e-3",
        help="ADAPTER@RATE or ADAPTER@RATE@usual, by commas",
    )
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa", help="in the peers")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each system")
    parser.add_argument("keys", nargs="*", help="recipe keys for leantune, as key=value")
    options = parser.parse_args()
    fetch(["minilm"])
    if not (options.data / "train.csv").is_file():
        sys.exit(f"{options.data}: no train.csv there; give --data")
    result = {**BENCHMARK.origin(), "curves": BENCHMARK.earlier(options.results).get("curves", {})}
    curves = result["curves"]
    systems = {name: partial(leantune_curve, keys) for name, keys in OURS.items()}
    systems |= {f"PEFT {peer}": partial(peer_curve, peer) for peer in options.peers}
    for seed in range(42, 42 + options.seeds):
        with tempfile.TemporaryDirectory() as scratch:
            for name, run in systems.items():
                if all(curve["seed"] != seed for curve in curves.get(name, [])):
                    curves.setdefault(name, []).append(run(seed, options, Path(scratch)))
                    BENCHMARK.publish(options.results, result, markdown_of(result))


def markdown_of(result: Result) -> str:
    """The table of what is there."""
    curves, lines = result["curves"], []
    for name, runs in curves.items():
        first, target = runs[0], runs[0]["accuracy"][-1]
        reached = (first_at(run, target) for run in (first, curves["leantune"][0]))
        lines.append(
            [
                name,
                str(len(runs)),
                percent(mean(run["accuracy"][-1] for run in runs), 2),
                f"{first['seconds'][-1]:.0f} s",
                f"{first['texts_per_s']:.1f}",
                f"{first['peak_rss_bytes'] / 1e9:.2f} GB",
                *("" if name in OURS else "never" if s is None else f"{s:.0f} s" for s in reached),
            ]
        )
    costs = ["whole run", "texts/s", "peak memory", "first there", "leantune there"]
    return page(
        f"Time to quality, AG News, MiniLM-L6, {result['date']}",
        f"{measured_by(result, 'torch', 'transformers', 'peft')}. Accuracy: mean over the runs; all else: of the first "
        "one. leantune is there when as many of the 3,800 test rows are right as at the end of the peer's run.",
        table(["", "runs", "right at the end", *costs], lines),
    )


def first_at(curve: Curve, accuracy: float) -> float | None:
    """The seconds at which a run is as good as that; None: never."""
    reached = (s for s, a in zip(curve["seconds"], curve["accuracy"], strict=True) if a >= accuracy)
    return next(reached, None)


if __name__ == "__main__":
    main()
