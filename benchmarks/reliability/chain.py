"""A chain: one real `leantune train`, killed with SIGKILL once in each phase, and resumed each time."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import COMMAND, assignments, output_of, wait_for
from leantune.system.atomic import TEMPORARY_PREFIX
from leantune.training.checkpoint import TENSORS, list_checkpoints

PHASES = ("warm-up", "pruning", "final", "publishing")
"""Before the ranks fall, while they fall, after the cut, and while the artefacts are written."""
SETTINGS = (
    "init_rank=4", "target_rank=1", "epochs=4", "batch_size=8", "learning_rate=1e-2", "max_length=32",
    "precision=fp32", "validation_size=48", "save_every=3", "rank_warmup=0.25", "rank_final=0.3",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL."""

    chain: int
    processes: int
    aim: str
    """The phase that was waited for."""
    phase: str
    """The phase that it hit."""
    step: int
    """The last step that history.jsonl had."""
    is_in_save: bool
    """Whether a half-written checkpoint or artefact was left behind."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A run that is killed again and again.

    Args:
        number: of the chain; decides its moments.
        processes: 1, or more under torchrun with gloo.
        inputs: folder with ``encoder/``, ``train.csv`` and ``test.csv``.
        run: the run folder.
    """

    number: int
    processes: int
    inputs: Path
    run: Path

    def start(self) -> subprocess.Popen[bytes]:
        """Begin, or go on where a kill left off; a run without any checkpoint begins again."""
        if list_checkpoints(self.run):
            words = ["--resume", str(self.run)]
        else:
            words = ["--overwrite", f"output={self.run}", *self.files, *SETTINGS]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
        python = [sys.executable, *(launcher if self.processes > 1 else [])]
        return self.begin([*python, "-m", "leantune", "train", *words])

    def begin(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start ``command``, which writes into `log`."""
        self.run.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    @property
    def files(self) -> list[str]:
        """The inputs, as words of a command line."""
        names = {"data": "train.csv", "test": "test.csv", "model": "encoder"}
        return assignments({key: self.inputs / name for key, name in names.items()})

    @property
    def log(self) -> Path:
        """What all processes of the chain print."""
        return self.run.with_suffix(".log")

    def finish(self) -> None:
        """Let it run to the end.

        Raises:
            RuntimeError: with the end of its log, if it does not get there.
        """
        process = self.start()
        process.wait()
        self.check(process)

    def check(self, process: subprocess.Popen[bytes]) -> None:
        """A process that failed by itself is an error.

        Raises:
            RuntimeError: with the end of its log.
        """
        if process.returncode:
            raise RuntimeError(f"{self.run} failed: {self.log.read_text('utf-8')[-3000:]}")

    def kill_in(self, phase: str, *, in_save: bool) -> Kill | None:
        """Start, wait for a random moment of the phase, kill all its processes at once.

        Returns:
            None if the run ended before.

        Raises:
            RuntimeError: if it failed by itself.
        """
        rng = random.Random(f"{self.number} {phase}")
        started_ns = time.time_ns()
        process = self.start()
        record, history = self.run / "record.json", self.run / "history.jsonl"
        if not wait_for(process, record.exists, pause_s=0.001):
            return self.check(process)
        schedule = json.loads(record.read_text("utf-8"))["schedule"]
        step = rng.choice(_steps_of(phase, schedule))

        def is_reached() -> bool:
            return self.last_step() >= step and history.stat().st_mtime_ns > started_ns

        is_there = wait_for(process, is_reached, pause_s=0.001)
        if is_there and in_save:
            is_there = wait_for(process, lambda: bool(self.half_written()), pause_s=0)
        if not is_there:
            return self.check(process)
        time.sleep(rng.uniform(0, 0.002 if in_save else 0.1))
        for pid in [process.pid, *descendants(process.pid)]:
            with suppress(ProcessLookupError):  # it ended between the look and the kill
                os.kill(pid, signal.SIGKILL)
        process.wait()
        hit = next(name for name in PHASES if self.last_step() in _steps_of(name, schedule))
        return Kill(self.number, self.processes, phase, hit, self.last_step(), bool(self.half_written()))

    def last_step(self) -> int:
        """The last step in history.jsonl; 0 before the first."""
        path = self.run / "history.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        steps = [json.loads(line)["step"] for line in lines[-3:] if line.endswith(b"\n")]
        return max(steps, default=0)

    def half_written(self) -> list[str]:
        """Names of what is not yet whole."""
        folders = [folder for folder in (self.run, self.run / "checkpoints") if folder.is_dir()]
        return [n for folder in folders for n in os.listdir(folder) if n.startswith(TEMPORARY_PREFIX)]

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of what the run ended with: weights, optimiser, allocator, predictions."""
        predictions = self.run / "predictions.csv"
        files = ["--input", str(self.inputs / "test.csv"), "--output", str(predictions)]
        output_of([*COMMAND, "predict", str(self.run), "--overwrite", "--probabilities", *files])
        last = max(list_checkpoints(self.run).items())[1]
        parts = {
            "adapter": self.run / "adapter" / "adapter_model.safetensors",
            "merged model": self.run / "merged" / "model.safetensors",
            "last checkpoint": last / TENSORS,
            "predictions": predictions,
        }
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in parts.items()}


def reference(work: Path, processes: int) -> dict[str, str]:
    """The fingerprint of a run that nobody disturbs."""
    chain = Chain(-1, processes, work / "inputs", work / f"reference-{processes}")
    if not (chain.run / "merged").exists():
        chain.finish()
    return chain.fingerprint()


def differences(chain: Chain, expected: dict[str, str]) -> list[str]:
    """What a finished run ended with that is not as ``expected``."""
    found = chain.fingerprint()
    return [name for name in expected if found[name] != expected[name]]


def _steps_of(phase: str, schedule: dict[str, int]) -> range:
    """The last step in history.jsonl while the phase goes on."""
    warmup, prune, total = (schedule[key] for key in ("warmup_steps", "prune_step", "total_steps"))
    bounds = {
        "warm-up": (0, warmup), "pruning": (warmup, prune), "final": (prune, total), "publishing": (total, total + 1),
    }  # fmt: skip
    return range(*bounds[phase])


def descendants(pid: int) -> Iterator[int]:
    """Processes that ``pid`` started, and theirs: torchrun gives its workers sessions of their own."""
    with suppress(FileNotFoundError, ProcessLookupError):  # it ended between the look and the read
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                yield int(child)
                yield from descendants(int(child))
