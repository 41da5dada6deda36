"""The pipelines that are compared: how each is started and what it leaves behind."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.processes import COMMAND, Outcome, Workplace, assignments
from benchmarks.speed.arithmetic import Sample

PEER = Path(__file__).parents[1] / "peer"
EVAL_BATCH_SIZE, MAX_LENGTH, DROPOUT = 64, 256, 0.15
SHARED = {
    "init_rank": 11,
    "target_rank": 8,
    "alpha": 16,
    "epochs": 1,
    "batch_size": 32,
    "max_length": MAX_LENGTH,
}
"""Keys of leantune's recipe, which are options of the peer, too."""
USUAL, BEST, LEANTUNE = "usual", "best setting", "leantune"
ROUNDED = "best setting, few shapes"
"""Padded to multiples of 16 besides, so that oneDNN need not compile kernels at every batch: hardly known."""
EAGER = "best setting, eager attention"
BF16_PRODUCTS = f"{LEANTUNE}, bf16 products"
FEW_SHAPES = ("--pad-to-multiple-of", "16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What every pipeline of one comparison works on."""

    model: Path
    """Folder of a pretrained encoder with its tokenizer."""
    rows: Path
    """CSV of the rows to train on or to classify."""
    validation: Path
    """CSV of the few rows that leantune measures when its epoch is over."""
    trained: Path
    """Run folder of leantune: training makes it, prediction with every pipeline uses its weights."""
    precision: str
    """bf16 where the machine computes it natively, else fp32."""
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One way to do a task: a command, and how to read what it left in a folder."""

    name: str
    command: Callable[[Workload, Path], list[str]]
    read: Callable[[Workload, Path, Outcome], Sample]
    before: Callable[[Workload], list[str]] | None = None
    """A command to run first, which is not measured."""

    def sample(self, work: Workload, place: Workplace) -> Sample:
        """Run it once in ``place``."""
        if self.before is not None:
            place.output_of(self.before(work))
        return self.read(work, place.folder, place.run(self.command(work, place.folder)))


def peer_training(name: str, *options: str, precision: str | None = None) -> Pipeline:
    """transformers' Trainer with PEFT; ``options`` go to ``benchmarks/peer/trainer_peft.py``."""

    def command(work: Workload, folder: Path) -> list[str]:
        recipe = {
            **SHARED,
            "model": work.model,
            "train": work.rows,
            "output": folder / "result.json",
            "precision": precision or work.precision,
            "dropout": DROPOUT,
            "learning_rate": work.learning_rate,
            "logging_steps": 1,
        }
        return [sys.executable, str(PEER / "trainer_peft.py"), *_words(recipe), *options]

    def read(work: Workload, folder: Path, outcome: Outcome) -> Sample:
        result = _json(folder / "result.json")
        return Sample(
            samples_per_s=result["train_samples_per_s"],
            tokens_per_s=result["train_tokens_per_s"],
            tokens=result["real_tokens"],
            peak_rss_bytes=outcome.peak_rss_bytes,
            objective=tuple(loss for _, loss in result["objective_by_step"]),
        )

    return Pipeline(name, command, read)


def leantune_training(name: str = LEANTUNE, *, precision: str = "auto") -> Pipeline:
    """``leantune train`` with the same recipe."""

    def command(work: Workload, folder: Path) -> list[str]:
        recipe = {
            **SHARED,
            "model": work.model,
            "data": work.rows,
            "validation": work.validation,
            "output": work.trained,
            "precision": precision,
            "learning_rate": work.learning_rate,
            **{"targets": "query,value", "adapter_init": "normal", "orth_reg_weight": 0.5},
            **{"head": "full", "warm_start": "false", "lora_dropout": DROPOUT},
            "dropout": "none",  # the encoder's own
            **{"weight_decay": 0.01, "warmup": 0.1, "eval_batch_size": EVAL_BATCH_SIZE},
            **{"rank_warmup": 0.1, "rank_final": 0.4, "allocate_every": 0.01},
        }
        return [*COMMAND, "train", *assignments(recipe), "--overwrite"]

    def read(work: Workload, folder: Path, outcome: Outcome) -> Sample:
        record = _json(work.trained / "record.json")
        timings = record["timings"]
        history = (work.trained / "history.jsonl").read_text("utf-8").splitlines()
        return Sample(
            samples_per_s=timings["train_samples_per_s"],
            tokens_per_s=timings["train_tokens_per_s"],
            tokens=record["data"]["train"]["tokens"],
            peak_rss_bytes=outcome.peak_rss_bytes,
            objective=objective_before_cut(
                map(json.loads, history), record["recipe"]["advanced"]["orth_reg_weight"]
            ),
            in_int8=record["model"]["frozen_products"] == "int8",
        )

    return Pipeline(name, command, read)


def objective_before_cut(events: Any, orth_reg_weight: float) -> tuple[float, ...]:
    """The minimised loss up to the final cut, where the penalty loses the removed triplets at one blow.

    Args:
        events: lines of ``history.jsonl``.
        orth_reg_weight: weight of the penalty.
    """
    objective = []
    for event in events:
        if event["event"] == "pruned":
            break
        if event["event"] == "step":
            objective.append(event["loss"] + orth_reg_weight * event["orthogonality"])
    return tuple(objective)


def peer_prediction(name: str, mode: str, *more: str) -> Pipeline:
    """A loop over a transformers classifier; ``mode`` as in ``benchmarks/peer/predict.py``."""

    def command(work: Workload, folder: Path) -> list[str]:
        options = {
            "model": work.trained / "merged",
            "mode": mode,
            "max_length": MAX_LENGTH,
            **_files(work, folder),
        }
        return [sys.executable, str(PEER / "predict.py"), *_words(options), *more]

    return Pipeline(name, command, _read_prediction)


def leantune_prediction(
    name: str = LEANTUNE, *, precision: str | None = None, engine: str = "torch"
) -> Pipeline:
    """What ``leantune predict`` does, with a clock around it; other engines are exported before."""

    def export(work: Workload) -> list[str]:
        return [*COMMAND, "export", str(work.trained), "--format", engine, "--overwrite"]

    def command(work: Workload, folder: Path) -> list[str]:
        options = {
            "run": work.trained,
            "precision": precision or work.precision,
            "engine": engine,
            **_files(work, folder),
        }
        return [sys.executable, "-m", "benchmarks.speed.predict_leantune", *_words(options)]

    def read(work: Workload, folder: Path, outcome: Outcome) -> Sample:
        in_int8 = precision == "int8" or engine == "openvino-int8"
        return replace(_read_prediction(work, folder, outcome), in_int8=in_int8)

    return Pipeline(name, command, read, before=None if engine == "torch" else export)


def _read_prediction(work: Workload, folder: Path, outcome: Outcome) -> Sample:
    result = _json(folder / "result.json")
    with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
        labels = tuple(row["label"] for row in csv.DictReader(file))
    return Sample(
        samples_per_s=result["samples_per_s"],
        tokens_per_s=result["tokens_per_s"],
        tokens=result["tokens"],
        peak_rss_bytes=outcome.peak_rss_bytes,
        labels=labels,
    )


def pipelines_of(task: str, *, is_long: bool, has_int8: bool) -> list[Pipeline]:
    """The pipelines of the report, in its order; leantune last. ``has_int8``: whether its kernels multiply in int8."""
    if task == "training":
        more = [
            peer_training(f"{USUAL}, fp32", precision="fp32"),
            peer_training(f"{BEST}, fp32", "--group-by-length", precision="fp32"),
            peer_training(f"{USUAL}, LoRA", "--adapter", "lora"),
            peer_training(f"{BEST}, LoRA", "--adapter", "lora", "--group-by-length"),
            leantune_training(f"{LEANTUNE}, fp32", precision="fp32"),
        ]
        always = [
            peer_training(USUAL),
            peer_training(BEST, "--group-by-length"),
            peer_training(ROUNDED, "--group-by-length", *FEW_SHAPES),
            peer_training(EAGER, "--group-by-length", "--attention", "eager"),
            *([leantune_training(BF16_PRODUCTS, precision="bf16")] if has_int8 else []),
            leantune_training(),
        ]
    else:
        more = [
            leantune_prediction(f"{LEANTUNE}, fp32", precision="fp32"),
            leantune_prediction(f"{LEANTUNE}, OpenVINO bf16", precision="bf16", engine="openvino"),
        ]
        always = [
            peer_prediction(USUAL, "plain"),
            peer_prediction(BEST, "best"),
            peer_prediction(ROUNDED, "best", *FEW_SHAPES),
            leantune_prediction(f"{LEANTUNE}, OpenVINO int8", engine="openvino-int8"),
            *([leantune_prediction(f"{LEANTUNE}, int8", precision="int8")] if has_int8 else []),
            leantune_prediction(),
        ]
    return [*always[:-1], *(more if is_long else ()), always[-1]]


def _files(work: Workload, folder: Path) -> dict[str, Any]:
    """Options of both predictions: what they read and what they leave in ``folder``."""
    left = {"predictions": folder / "labels.csv", "output": folder / "result.json"}
    return {"input": work.rows, "batch_size": EVAL_BATCH_SIZE, **left}


def _words(options: Mapping[str, Any]) -> list[str]:
    return [str(word) for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value)]


def _json(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return result
