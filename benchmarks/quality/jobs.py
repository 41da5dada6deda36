"""One run of the study: what it is, its command, its result."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.harness import commit
from benchmarks.processes import assignments, failure
from benchmarks.quality.data import DataSet, Encoder
from benchmarks.quality.methods import BUDGETS, CLI, COMMON, REMOVED, UNNAMED, Method
from leantune import __version__
from leantune.adalora.budget import ParameterPlan
from leantune.assets.download import resolve_location
from leantune.errors import DivergedError
from leantune.model.adapt import plan_model
from leantune.model.build import skeleton_of
from leantune.model.pretrained import Pretrained

PUBLISHED_RANKS = {"init_rank": 11, "target_rank": 8}
PEER_RANKS = {"adalora": PUBLISHED_RANKS, "lora": {"init_rank": 11, "target_rank": 11}}
"""LoRA has no E and no pruning: rank 11 is what the same limit pays for."""
WITHOUT_TRAINER = ("tfidf", "setfit")
"""Pipelines of `benchmarks.quality.others`."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training run; what it depends on is in `settings`, which its key is the hash of."""

    data: DataSet
    method: Method
    budget: str
    learning_rate: float
    seed: int

    @property
    def encoder(self) -> Encoder:
        """What is fine-tuned."""
        return self.data.source.encoder

    @property
    def limit(self) -> int:
        """Most trainable parameters."""
        fixed = BUDGETS[self.budget]
        return fixed if fixed is not None else self._plan(**PUBLISHED_RANKS).initial

    @property
    def settings(self) -> dict[str, Any]:
        """Recipe keys, or those of `benchmarks.quality.peer`, without paths.

        Raises:
            UsageError: if nothing of the method fits the budget.
        """
        common = {"learning_rate": self.learning_rate, "seed": self.seed}
        if self.method.pipeline in WITHOUT_TRAINER:
            return {"adapter": self.method.pipeline, **self.method.settings, **common}
        if self.method.pipeline == "full":
            return {"adapter": "full", **self.encoder.pipeline, **common}
        if self.method.is_peer:
            ranks = PEER_RANKS[self.method.pipeline]
            settings = {**self.encoder.pipeline, **self.method.settings}
            return {"adapter": self.method.pipeline, **ranks, **settings, **common}
        own = self.method.settings
        self._plan(limit=self.limit, targets=own["targets"], method=own["method"])
        return {**COMMON, **self.encoder.recipe, **own, "max_trainable_params": self.limit, **common}

    @property
    def unnamed_ranks(self) -> dict[str, int]:
        """The ranks of AdaLoRA whose settings name none: most results are of a package that kept two thirds."""
        own = self.method.settings
        if self.method.is_peer or own["method"] != "adalora" or "target_rank" in own:
            return {}
        rank = self._plan(limit=self.limit, targets=own["targets"], method=own["method"]).init_rank
        return {"init_rank": rank, "target_rank": max(1, rank * 2 // 3)}

    def _plan(self, **settings: Any) -> ParameterPlan:
        return _plan(self.encoder.model, self.data.num_labels, **settings)

    @property
    def key(self) -> str:
        """Names the run: another one with the same settings on the same rows is the same run."""
        whole = {"model": self.encoder.model, "data": self.data.digest, "settings": self.settings}
        if self.method.module != CLI:
            whole["module"] = self.method.module
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return (
            f"{self.data.name}, {self.method.name}, {self.budget}, learning rate {self.learning_rate:g}, "
            f"seed {self.seed}"
        )


@cache
def _plan(model: str, num_labels: int, *, targets: str = "attention", **settings: Any) -> ParameterPlan:
    known = {"limit": None, "init_rank": None, "target_rank": None} | settings
    return plan_model(_skeleton(model, num_labels), targets=targets, head="full", **known)


@cache
def _skeleton(model: str, num_labels: int) -> Any:
    return skeleton_of(Pretrained.at(resolve_location(model), num_labels=num_labels))


def recipe_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the study as keys of a recipe of today; a run keeps those that its key was made from.

    >>> recipe_keys({"int8_products": False, "epochs": 3})
    {'epochs': 3, 'precision': 'bf16'}
    """
    recipe = {key: value for key, value in settings.items() if REMOVED.get(key) != value}
    if not recipe.pop("int8_products", True):
        recipe.setdefault("precision", "bf16")
    return recipe


def run_job(job: Job, scratch: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run ``job`` in a fresh process: its result, for its row.

    A run that diverged is a result, too: without metrics.

    Raises:
        RuntimeError: if the process failed in any other way, with the end of its output.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    files = {part: str(job.data.file(part)) for part in ("train", "validation", "test")}
    if job.method.is_peer:
        settings = {**job.settings, "model": resolve_location(job.encoder.model), "files": files}
        (scratch / "settings.json").write_text(json.dumps(settings), "utf-8")
        module, words = "benchmarks.quality.peer", [str(scratch / "settings.json"), str(scratch / "out.json")]
    else:
        paths = {"data": files["train"], "validation": files["validation"], "test": files["test"]}
        recipe = {
            **recipe_keys({**UNNAMED, **job.unnamed_ranks, **job.settings}),
            **paths,
            "model": job.encoder.model,
            "output": str(scratch / "run"),
        }
        module, words = CLI, ["train", *assignments(recipe)]
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True)
    found: dict[str, Any] = {"metrics": None, "error": (done.stderr.strip().splitlines() or [""])[-1]}
    if done.returncode == 0:
        found = _json(scratch / "out.json") if job.method.is_peer else _leantune_result(scratch)
    elif job.method.is_peer or done.returncode != DivergedError.exit_code:
        raise failure(done.returncode, command, done.stderr)
    shutil.rmtree(scratch)
    return {
        "data": job.data.name,
        "method": job.method.name,
        "budget": job.budget,
        "limit": job.limit,
        "settings": job.settings,
        "date": date.today().isoformat(),
        "leantune": __version__,
        "commit": commit(),
        **found,
    }


def _json(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return result


def _leantune_result(scratch: Path) -> dict[str, Any]:
    record = _json(scratch / "run" / "record.json")

    def short(metrics: Mapping[str, Any]) -> dict[str, float]:
        return {name: metrics[name] for name in ("accuracy", "macro_f1", "log_loss")}

    baseline, timings = record["baseline"], record["timings"]
    return {
        "metrics": {part: short(record["metrics"][part]) for part in ("validation", "test")},
        "baseline": baseline and {part: short(baseline[part]) for part in ("validation", "test")},
        "parameters": {name: record["parameters"][name] for name in ("initial", "final", "head")},
        "ranks": record["ranks"],
        "selected_step": record["selected"]["step"],
        "total_steps": record["schedule"]["total_steps"],
        "start_s": timings.get("probe_s", 0) + timings.get("gradient_start_s", 0),
        "train_s": timings["train_s"],
        "total_s": timings["total_s"],
        "versions": record["versions"],
        "hardware": record["hardware"],
    }
