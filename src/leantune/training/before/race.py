"""Choose layers, method and learning rate by short runs, if the recipe leaves them open (``effort=balanced``).

Every candidate trains on the same rows for a third of the steps, with a schedule of its own, and is measured on the
validation rows. All share rows, tokens and a linear probe. The first candidate is the default; another one wins only
if its log loss is lower by more than a standard error. The winner is then trained in full, as if the recipe had named
it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Literal

import numpy as np

from leantune.config import Recipe
from leantune.config.record.run import CandidateRecord
from leantune.errors import DivergedError, UsageError
from leantune.evaluation.batches import Floats, predict_probabilities
from leantune.evaluation.tasks import task_of
from leantune.model.adapt import ALL_LINEAR, HEAD_ONLY
from leantune.training.before.dataset import plan_steps
from leantune.training.build import Run, plan_run
from leantune.training.trial import trained

SHARE = 3
"""A candidate trains for the full number of steps divided by this."""
WAYS: Sequence[tuple[Literal["adalora", "lora"] | None, str | None]] = (
    ("lora", ALL_LINEAR),
    ("adalora", "attention"),
)
"""Pairs of method and targets to try."""
SLOWER = 3
"""The second learning rate to try is the default divided by this."""


def candidates(asked: Recipe, resolved: Recipe) -> list[Recipe]:
    """The recipes to try, the default first.

    Args:
        asked: the recipe as the user wrote it; all candidates keep what it sets.
        resolved: the same recipe with all defaults filled in.
    """
    ways = [(resolved.method, resolved.targets)]
    if (
        resolved.layers is None
        and resolved.targets != HEAD_ONLY  # else the limit does not pay for other layers
        and asked.targets is None
        and asked.method is None
        and asked.init_rank is None
        and asked.target_rank is None
    ):
        ways += [way for way in WAYS if way not in ways]
    assert resolved.learning_rate is not None, "with_pace sets it"
    rates = [resolved.learning_rate]
    if asked.learning_rate is None:
        rates.append(float(f"{resolved.learning_rate / SLOWER:.3g}"))
    return [
        replace(resolved, method=method, targets=targets, learning_rate=rate)
        for (method, targets), rate in product(ways, rates)
    ]


def race(run: Run, asked: Recipe) -> list[CandidateRecord]:
    """Try the `candidates` and set ``run`` to the best; nothing is tried without validation rows or alternatives.

    Returns:
        the candidates in the order tried.
    """
    recipes = candidates(asked, run.recipe)
    if len(recipes) == 1 or not len(run.data.validation):
        return []
    tried, losses = [], []
    for number, recipe in enumerate(recipes, start=1):
        run.console.print(f"trying candidate {number} of {len(recipes)}")
        found, losses_N = _try(run, recipe)
        tried.append(found)
        losses.append(losses_N)
        if found.log_loss is not None:
            run.console.print(
                f"{_described(recipe)}: validation log loss {found.log_loss:.3f} after {found.steps} steps"
            )
    # the probe belongs to the first candidate, whose layers may round differently from those of the chosen one
    run.probe = None
    run.recipe = recipes[best_of(losses)]
    run.recipe, run.plan = plan_run(run.recipe, run.pretrained)
    run.steps = plan_steps(run.recipe, run.plan, len(run.data.train))
    run.console.print(f"chosen: {_described(run.recipe)}")
    return tried


def best_of(losses: Sequence[Floats]) -> int:
    """The position of the lowest mean loss, or 0 if the default is within a standard error of it.

    The standard error is that of the paired differences: chance is no reason to leave the default.

    Args:
        losses: ``(N,)`` per candidate, on the same rows; infinite if it failed.

    >>> default, other = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 1.6, 2.5, 3.6])
    >>> best_of([default, other]), best_of([default, default + [1.0, -1.1, 1.0, -1.1]])
    (1, 0)
    """
    best = min(range(len(losses)), key=lambda i: losses[i].mean())
    if not np.isfinite(losses[0]).all():
        return best
    gains = losses[0] - losses[best]
    standard_error = gains.std(ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
    return best if gains.mean() > standard_error else 0


def _described(recipe: Recipe) -> str:
    return f"method={recipe.method} targets={recipe.targets} learning_rate={recipe.learning_rate:g}"


def _try(run: Run, recipe: Recipe) -> tuple[CandidateRecord, Floats]:
    """Train a candidate for its share of the steps; if it diverges or does not fit, it gets no measurements.

    Returns:
        its record, and the log loss of each validation row ``(N,)``.
    """
    started = time.perf_counter()
    assert recipe.epochs is not None, "with_pace sets it"
    short = replace(recipe, epochs=max(1, round(recipe.epochs / SHARE)))
    validation = run.data.validation
    steps, accuracy, losses_N = 0, None, np.full(len(validation), np.inf)
    try:
        short, plan = plan_run(short, run.pretrained)
        trial = replace(run, recipe=short, plan=plan, steps=plan_steps(short, plan, len(run.data.train)))
        steps = trial.steps.total_steps
        probabilities = predict_probabilities(trained(trial), validation, recipe.eval_batch_size)
        task = task_of(is_multi_label=validation.is_multi_label)
        losses_N = task.log_losses(probabilities, validation.label_ids)
        accuracy = float(task.is_right(probabilities, validation.label_ids).mean())
        run.probe, run.kernels = trial.probe, trial.kernels
    except (DivergedError, UsageError) as error:
        run.console.print(f"{_described(recipe)}: {error}", soft_wrap=True)
    record = CandidateRecord(
        method=str(recipe.method),
        targets=str(recipe.targets),
        learning_rate=recipe.learning_rate or 0.0,
        steps=steps,
        accuracy=accuracy,
        log_loss=None if accuracy is None else float(losses_N.mean()),
        seconds=time.perf_counter() - started,
    )
    return record, losses_N
