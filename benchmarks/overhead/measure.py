"""AdaLoRA and plain LoRA side by side: one step of each in turn, on the same rows in another order.

Not on the same batches: without padding each batch has a number of tokens of its own, kernels are compiled
for each new shape, and who came second would find them ready.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console

from leantune.adalora.layer import orthogonal_penalty
from leantune.config import Recipe, load_recipe
from leantune.training.build import build_classifier, fresh_state, prepare_run
from leantune.training.loop import Phase, StepResult, TrainingState, train

WARM_STEPS = 3
BATCH_SIZE = 32
REPEATS = 30
"""How often a part is measured alone."""
Steps = list[tuple[float, int]]
"""Seconds and tokens of each."""


@dataclass(slots=True)
class Contestant:
    """A run that is taken one step at a time."""

    recipe: Recipe
    state: TrainingState
    phase: Phase

    def step(self) -> tuple[float, int]:
        """Take a step: its seconds and its tokens."""
        tokens = self.state.train_tokens
        seconds = _seconds(lambda: self.take(1), self._device)
        return seconds, self.state.train_tokens - tokens

    def take(self, steps: int) -> list[StepResult]:
        """So many steps in a row, as a run takes them: what each did."""
        observer = _Taken(steps)
        train(self.state, self.phase, self.recipe, observer)
        return observer.results

    def seconds_of(self, part: Callable[[], object]) -> float:
        """The median of a part that is measured alone."""
        part()
        return median(_seconds(part, self._device) for _ in range(REPEATS))

    @property
    def _device(self) -> torch.device:
        return self.state.classifier.device


@dataclass(slots=True)
class _Taken:
    wanted: int
    results: list[StepResult] = field(default_factory=list)

    def after_step(self, state: TrainingState, result: StepResult) -> bool:
        self.results.append(result)
        return len(self.results) < self.wanted


def rows_needed(steps: int) -> int:
    """Training rows of `measure` with that many steps before pruning and as many after it."""
    return BATCH_SIZE * _total_steps(steps)


def measure(model: Path, rows: Path, folder: Path, steps: int) -> dict[str, Any]:
    """Everything about one encoder.

    Args:
        model: its folder.
        rows: a CSV of `rows_needed` rows, and some more for the hold-out.
        folder: for what a run writes.
        steps: measured steps before pruning, and after it.
    """
    adaptive, plain = (contestant(model, rows, folder / name, name, steps) for name in ("adalora", "lora"))
    in_turn(adaptive, plain, WARM_STEPS)
    trainable, kept = adaptive.state.classifier.num_trainable(), bytes_kept_for_backward(adaptive)
    before, lora_before = in_turn(adaptive, plain, steps)
    parts = seconds_of_parts(adaptive)
    in_turn(adaptive, plain, 1)  # the final cut
    assert adaptive.state.allocator.is_final
    after, lora_after = in_turn(adaptive, plain, steps)
    lora_step_s = median(seconds for seconds, _ in lora_before)
    return {
        "steps": steps,
        "batch_size": BATCH_SIZE,
        "tokens_per_step": median(tokens for _, tokens in lora_before),
        "precision": str(next(adaptive.state.classifier.encoder.parameters()).dtype)[6:],
        "lora_step_s": lora_step_s,
        "adalora_step_s": median(seconds for seconds, _ in before),
        "overhead": ratio(before, lora_before) - 1,
        "parts_s": parts,
        "parts_share": sum(parts.values()) / lora_step_s,
        "pruning": {
            "trainable": [trainable, adaptive.state.classifier.num_trainable()],
            "ms_per_1000_tokens": [ms_per_1000_tokens(before), ms_per_1000_tokens(after)],
            "against_lora": [ratio(before, lora_before), ratio(after, lora_after)],
            "bytes_kept_for_backward": [kept, bytes_kept_for_backward(adaptive)],
        },
    }


def _total_steps(steps: int) -> int:
    return WARM_STEPS + 2 * steps + 1


def contestant(model: Path, rows: Path, folder: Path, method: str, steps: int, **settings: str) -> Contestant:
    """A run before its first step; AdaLoRA allocates at every step and cuts between the two halves. ``settings`` are
    more keys of the recipe.
    """
    is_adaptive = method == "adalora"
    keys = {
        **{"model": str(model), "data": str(rows), "output": str(folder)},
        **{"method": method, "init_rank": 11, "target_rank": 8 if is_adaptive else None},
        **{"rank_warmup": 1, "rank_final": steps, "allocate_every": 1, "orth_reg_weight": 0.5},
        **{"epochs": 1, "batch_size": BATCH_SIZE, "validation_size": BATCH_SIZE, "learning_rate": 1e-4},
        **{"seed": 1 if is_adaptive else 2},
    }
    recipe = load_recipe(None, keys | settings)
    run = prepare_run(recipe, console=Console(quiet=True), overwrite=True, resume=False)
    assert run.steps.total_steps == _total_steps(steps)
    phase = Phase(
        rows=run.data.train,
        steps_per_epoch=run.steps.steps_per_epoch,
        total_steps=run.steps.total_steps,
        lr_warmup_steps=run.steps.lr_warmup_steps,
        seed=recipe.seed,
    )
    return Contestant(recipe, fresh_state(run, build_classifier(run), run.steps.ranks), phase)


def in_turn(adaptive: Contestant, plain: Contestant, steps: int) -> tuple[Steps, Steps]:
    """``steps`` steps of each; who goes first alternates."""
    taken: tuple[Steps, Steps] = [], []
    for i in range(steps):
        order = (0, 1) if i % 2 else (1, 0)
        for j in order:
            taken[j].append((adaptive, plain)[j].step())
    return taken


def ratio(mine: Steps, theirs: Steps) -> float:
    """How many times as long a token takes in the first; of medians."""
    return ms_per_1000_tokens(mine) / ms_per_1000_tokens(theirs)


def ms_per_1000_tokens(steps: Steps) -> float:
    return median(1e6 * seconds / tokens for seconds, tokens in steps)


def seconds_of_parts(adaptive: Contestant) -> dict[str, float]:
    """What AdaLoRA does in a step and LoRA does not, each alone; allocation as if at every step."""
    state = adaptive.state
    layers = list(state.classifier.adapted_layers().values())
    weight = adaptive.recipe.advanced.orth_reg_weight

    def penalty() -> None:
        torch.autograd.backward(weight * orthogonal_penalty(layers))

    penalty()  # leaves gradients for the importance to read
    allocator = state.allocator
    parts = {
        "orthogonality": adaptive.seconds_of(penalty),
        "importance": adaptive.seconds_of(allocator.observe),
        "allocation": adaptive.seconds_of(lambda: allocator.allocate(state.step)),
    }
    state.optimizer.zero_grad(set_to_none=True)
    return parts


def bytes_kept_for_backward(run: Contestant) -> int:
    """Memory of the tensors that one forward pass keeps, each storage once, weights left out."""
    classifier = run.state.classifier
    weights = {p.untyped_storage().data_ptr() for p in classifier.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = classifier.batch_of(run.phase.rows[np.arange(BATCH_SIZE)])
    stream = classifier.stream.state()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = classifier(batch).sum()
    classifier.stream.load_state(stream)  # the next step must not notice
    del loss
    return sum(kept.values())


def _seconds(part: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    part()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
