"""Seconds until a classifier is as good as the usual pipeline's at its end: AG News, MiniLM-L6.

    python benchmarks/time_to_quality.py [--usual] [--every STEPS] [key=value ...]

Trains transformers' Trainer + PEFT AdaLoRA in its best setting (with --usual: also in input order, which
takes several times as long) and leantune with its defaults, in fresh processes on the shared AG News rows,
under the same limit on parameters, and measures the 3,800 test rows every --every steps. Everything is
counted from the start of the process, imports, tokenising and the linear probe included, but not these
measurements. Writes benchmarks/results/time_to_quality_<date>.md and .json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from leantune.data.assets import resolve_location
from leantune.hardware import describe_hardware, describe_versions, pick_device

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


def peer_curve(name: str, options: argparse.Namespace, folder: Path, *words: str) -> Curve:
    """transformers' Trainer with PEFT AdaLoRA, its allocator called."""
    output = folder / "peer.json"
    command = [
        *(sys.executable, str(ROOT / "benchmarks" / "peer" / "trainer_peft.py")),
        *("--model", str(resolve_location("asset:minilm")), "--train", str(options.data / "train.csv")),
        *("--test", str(options.data / "dev_test.csv"), "--output", str(output)),
        *("--learning-rate", str(options.peer_learning_rate), "--max-length", "128"),
        *("--eval-steps", str(options.every), *words),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    evaluations = json.loads(output.read_text("utf-8"))["evaluations"]
    measured_s, seconds = 0.0, []
    for evaluation in evaluations:
        measured_s += evaluation["runtime_s"]
        seconds.append(evaluation["since_start_s"] - measured_s)
    return Curve(name, seconds, [evaluation["accuracy"] for evaluation in evaluations])


def leantune_curve(options: argparse.Namespace, folder: Path) -> Curve:
    """``leantune train`` with its defaults; the test rows stand in for validation rows, to measure only."""
    run = folder / "run"
    command = [
        *(sys.executable, "-m", "leantune.cli", "train", "model=asset:minilm", "max_length=128"),
        *(f"data={options.data / 'train.csv'}", f"validation={options.data / 'dev_test.csv'}"),
        *(f"max_trainable_params={LIMIT}", f"evaluate_every={options.every}", f"output={run}"),
        *options.keys,
    ]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first_step = None
    while process.poll() is None:
        if first_step is None and _events(run, "step"):
            first_step = time.perf_counter() - started  # the first step itself is in train_s, too
        time.sleep(0.1)
    if process.returncode or first_step is None:
        sys.exit(f"leantune train failed: {' '.join(command)}")
    evaluations = _events(run, "evaluation")
    return Curve(
        "leantune",
        [first_step + each["train_s"] for each in evaluations],
        [each["validation"]["accuracy"] for each in evaluations],
    )


def _events(run: Path, kind: str) -> list[dict[str, Any]]:
    history = run / "history.jsonl"
    lines = history.read_text("utf-8").splitlines() if history.is_file() else []
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return [event for event in events if event["event"] == kind]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "ag_news")
    parser.add_argument("--every", type=int, default=50, help="steps between measurements")
    parser.add_argument("--usual", action="store_true", help="also batches in input order")
    parser.add_argument("--peer-learning-rate", type=float, default=1e-3)
    parser.add_argument("keys", nargs="*", help="recipe keys for leantune, as key=value")
    options = parser.parse_args()
    if not (options.data / "train.csv").is_file():
        sys.exit(f"{options.data}: no train.csv there; give --data")
    with tempfile.TemporaryDirectory() as scratch:
        curves = [leantune_curve(options, Path(scratch))]
        curves.append(peer_curve("best setting", options, Path(scratch), "--group-by-length"))
        if options.usual:
            curves.append(peer_curve("usual", options, Path(scratch)))
    write(curves)


def write(curves: list[Curve]) -> None:
    """The table, and the curves behind it."""
    hardware, versions = describe_hardware(pick_device()), describe_versions()
    target = curves[-1].accuracies[-1]
    ours = curves[0].seconds_until(target)
    lines = [
        f"# Time to quality, AG News, MiniLM-L6, {date.today()}",
        "",
        f"`{' '.join(['python benchmarks/time_to_quality.py', *sys.argv[1:]])}` on "
        f"{hardware['gpu'] or hardware['cpu']}, {hardware['cores']} cores; torch {versions['torch']}, transformers "
        f"{versions['transformers']}, PEFT {versions['peft']}. Seconds since the start of the process until "
        f"{100 * target:.2f} % of 3,800 test rows are right, where `{curves[-1].name}` ends.",
        "",
        "| | until then | whole run | accuracy at the end | leantune is faster by |",
        "|---|---|---|---|---|",
    ]
    for curve in curves:
        reached = curve.seconds_until(target)
        cells = [
            curve.name,
            "never" if reached is None else f"{reached:.0f} s",
            f"{curve.seconds[-1]:.0f} s",
            f"{100 * curve.accuracies[-1]:.2f} %",
            f"{reached / ours:.1f}x" if reached and ours and curve is not curves[0] else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    stem = ROOT / "benchmarks" / "results" / f"time_to_quality_{date.today()}"
    stem.with_suffix(".md").write_text(text, "utf-8")
    raw = {curve.name: {"seconds": curve.seconds, "accuracy": curve.accuracies} for curve in curves}
    stem.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
