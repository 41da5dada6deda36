"""The training loop; read it from top to bottom.

One optimiser step: learning rate, micro-steps (forward, loss, backward), check, observe importance,
clip, step, allocate, prune, zero, log, evaluate, checkpoint.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from leantune.adalora.allocator import RankAllocator
from leantune.adalora.layer import orthogonal_penalty
from leantune.adalora.prune import prune
from leantune.config import Recipe
from leantune.data.tokens.dataset import LabelledRows, shuffled
from leantune.errors import DivergedError
from leantune.model.classifier import Classifier
from leantune.packing.batch import PackedBatch
from leantune.system import distributed
from leantune.training.losses import of_all_processes, supervised_contrast, take_no_part
from leantune.training.objectives import objective_of
from leantune.training.optimizer import learning_rate_at, set_learning_rate

MAX_SKIPPED_IN_A_ROW = 20


@dataclass(slots=True)
class TrainingState:
    """Everything that changes during training; a checkpoint holds all of it (`training.state`)."""

    classifier: Classifier
    optimizer: torch.optim.Optimizer
    allocator: RankAllocator
    scaler: torch.amp.GradScaler
    step: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    train_s: float = 0.0
    train_samples: int = 0
    train_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of training: the main run, or the refit after it."""

    rows: LabelledRows
    steps_per_epoch: int
    total_steps: int
    lr_warmup_steps: int
    seed: int
    class_weights: Tensor | None = None
    """``(C,)`` fp32 class weights of the loss, on the host; None: all equal."""


@dataclass(slots=True)
class StepResult:
    """The outcome of one step; losses are numbers on the host."""

    step: int
    epoch: float
    learning_rate: float
    loss: float = 0.0
    orthogonality: float = 0.0
    num_tokens: int = 0
    seconds: float = 0.0
    is_skipped: bool = False
    is_pruned: bool = False
    micro_sizes: list[int] = field(default_factory=list)


class Observer(Protocol):
    """Called after each step to log, evaluate and save; decides when to stop."""

    def after_step(self, state: TrainingState, result: StepResult) -> bool:
        """Whether training continues."""


def train(state: TrainingState, phase: Phase, recipe: Recipe, observer: Observer) -> None:
    """Train from ``state.step`` to the end of the phase.

    Raises:
        DivergedError: if a loss is not finite, too many consecutive steps or most steps had to be skipped, or ranks
            are not final at the end.
    """
    state.classifier.train()
    while state.step < phase.total_steps:
        started = time.perf_counter()
        epoch, step_in_epoch = divmod(state.step, phase.steps_per_epoch)
        order = shuffled(len(phase.rows), seed=phase.seed, epoch=epoch)
        positions = order[step_in_epoch * recipe.batch_size : (step_in_epoch + 1) * recipe.batch_size]
        state.step += 1
        result = StepResult(
            state.step, state.step / phase.steps_per_epoch, _learning_rate(state, phase, recipe)
        )
        set_learning_rate(state.optimizer, result.learning_rate)

        own = positions[distributed.rank() :: distributed.world_size()]
        most = math.ceil(
            len(positions) / distributed.world_size()
        )  # the most rows of any process: all take the same number of micro-steps
        micro_steps = np.array_split(own, min(recipe.accumulate, most))
        sizes = BatchSize(
            len(positions),
            objective_of(phase.rows).size(phase.rows.label_ids[positions], phase.class_weights),
            math.ceil(most / len(micro_steps)),
        )
        losses = [_backward(state, phase, phase.rows[micro], sizes, recipe, result) for micro in micro_steps]
        result.loss, result.orthogonality = torch.stack(losses).double().sum(0).tolist()  # host sync
        _sum_over_processes(state, result)  # still scaled, so all processes detect the same overflow
        state.scaler.unscale_(state.optimizer)
        _check_loss(result, phase.rows, positions)
        parameters = (p for group in state.optimizer.param_groups for p in group["params"])
        grads = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads).item()

        if math.isfinite(norm):  # host sync: the loop must know before it steps
            state.allocator.observe()
            if 0 < recipe.advanced.max_grad_norm < norm:
                torch._foreach_mul_(grads, recipe.advanced.max_grad_norm / (norm + 1e-6))
            state.scaler.step(state.optimizer)
            state.skipped_in_a_row = 0
            _allocate(state, result)
        else:
            _skip(state, result)
            if state.step == phase.total_steps:  # no later step could make a final cut that is still due
                _allocate(state, result)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)

        result.seconds = time.perf_counter() - started
        state.train_s += result.seconds
        state.train_samples += len(positions)
        state.train_tokens += result.num_tokens
        if not observer.after_step(state, result):
            break
    else:
        state.allocator.check_ranks_are_final(phase.total_steps)
    _check_steps_taken(state)


def _learning_rate(state: TrainingState, phase: Phase, recipe: Recipe) -> float:
    assert recipe.learning_rate is not None, "prepare_run resolves it"
    return learning_rate_at(
        state.step,
        peak=recipe.learning_rate,
        warmup_steps=phase.lr_warmup_steps,
        total_steps=phase.total_steps,
    )


@dataclass(frozen=True, slots=True)
class BatchSize:
    """The size of a batch over all micro-steps and processes: divisors for sums over its rows."""

    rows: int
    weight: float
    """Divisor of the loss: the number of rows, or their summed class weights."""
    most_at_once: int
    """Largest number of rows in a micro-step of any process."""


def _backward(
    state: TrainingState,
    phase: Phase,
    rows: LabelledRows,
    whole: BatchSize,
    recipe: Recipe,
    result: StepResult,
) -> Tensor:
    """Forward and backward of one micro-step; returns its share of loss and orthogonality ``(2,)``, on the device."""
    penalty = torch.zeros((), device=state.classifier.device)
    if not len(rows):  # more processes than rows in the last batch
        if recipe.contrast_weight:
            width = state.classifier.output_layer.in_features
            take_no_part(width, whole.most_at_once, penalty.device)
        return torch.stack([penalty, penalty])
    batch = state.classifier.batch_of(rows)
    features = state.classifier.features(batch)
    logits = state.classifier.logits(features)
    loss = _task_loss(phase, logits, batch, recipe) / whole.weight
    total = loss
    if recipe.contrast_weight:
        assert batch.labels is not None
        texts = of_all_processes(features, batch.labels, whole.most_at_once)
        contrast = supervised_contrast(*texts)
        total = total + recipe.contrast_weight * contrast / whole.rows
    # once per step, in one process: the penalty does not depend on the rows
    if recipe.advanced.orth_reg_weight and not result.micro_sizes and distributed.is_main():
        penalty = orthogonal_penalty(list(state.classifier.adapted_layers().values()))
        total = total + recipe.advanced.orth_reg_weight * penalty
    torch.autograd.backward(state.scaler.scale(total))
    result.num_tokens += batch.num_tokens
    result.micro_sizes.append(len(rows))
    return torch.stack([loss.detach(), penalty.detach()])


def _task_loss(phase: Phase, logits: Tensor, batch: PackedBatch, recipe: Recipe) -> Tensor:
    """The loss that the recipe names, summed over the rows."""
    assert batch.labels is not None
    weight = None if phase.class_weights is None else phase.class_weights.to(logits.device)
    return objective_of(phase.rows).loss(
        logits,
        batch.labels,
        weight,
        smoothing=recipe.advanced.label_smoothing,
        is_robust=recipe.loss == "robust",
    )


def _sum_over_processes(state: TrainingState, result: StepResult) -> None:
    """Sum gradients and losses over all processes; a single process already has the sums."""
    if distributed.world_size() == 1:
        return
    parameters = state.classifier.trainable().values()
    distributed.sum_gradients([_gradient_of(p) for p in parameters])
    sums = distributed.sum_numbers(result.loss, result.orthogonality, result.num_tokens)
    result.loss, result.orthogonality, result.num_tokens = sums[0], sums[1], int(sums[2])


def _gradient_of(parameter: torch.nn.Parameter) -> Tensor:
    """The gradient of a parameter; set to zeros if this process had no row for it."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _allocate(state: TrainingState, result: StepResult) -> None:
    """Enforce the rank budget if it is due; the final cut makes the tensors smaller."""
    classifier, allocator = state.classifier, state.allocator
    keep_masks = allocator.allocate(state.step)
    if keep_masks is not None:
        distributed.check_agreement(
            f"the rank pattern of step {state.step}",
            {name: mask.tolist() for name, mask in keep_masks.items()},
        )
        prune(classifier, keep_masks, state.optimizer)
        result.is_pruned = True
    allocator.check_ranks_are_final(state.step)


def _check_loss(result: StepResult, rows: LabelledRows, positions: np.ndarray) -> None:
    if not math.isfinite(result.loss):
        raise DivergedError(
            f"the loss of step {result.step} is {result.loss}: stopped before the step. A resumed run would reach "
            "it again: start over with a lower learning_rate or precision=fp32. Rows of the batch, counted from 0: "
            f"{rows.names_of(positions)}"
        )


def _check_steps_taken(state: TrainingState) -> None:
    """Refuse a phase in which more than half of the steps were skipped.

    Raises:
        DivergedError: saying how many were skipped.
    """
    if 2 * state.skipped_steps > state.step:
        raise DivergedError(
            f"{skipped_line(state)}: the run cannot recover; lower learning_rate, or use precision=fp32"
        )


def skipped_line(state: TrainingState) -> str:
    """The number of skipped steps, for the user."""
    return f"{state.skipped_steps:,} of {state.step:,} steps were skipped, because their gradients were not finite"


def _skip(state: TrainingState, result: StepResult) -> None:
    """Leave weights, moments and importance as they are; give up after too many steps in a row."""
    result.is_skipped = True
    state.skipped_steps += 1
    state.skipped_in_a_row += 1
    if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise DivergedError(
            f"the gradients of {MAX_SKIPPED_IN_A_ROW} steps in a row, up to step {state.step}, were not finite; "
            "use precision=bf16 or precision=fp32, or lower learning_rate"
        )
