"""Choose what the recipe leaves open by short runs (``effort=balanced``): which layers, which method, how fast.

Every candidate is trained on the same rows for a third of the steps, with its own schedule, and measured on the
validation rows. Rows, tokens and the linear probe are shared. The one with the lowest log loss is trained as a whole,
as if the recipe had named it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Literal

from leantune.config import Recipe
from leantune.config.run_record import CandidateRecord
from leantune.errors import DivergedError, UsageError
from leantune.model.classifier import Classifier
from leantune.training.build import Run, build_classifier, class_weights, fresh_state, plan_run
from leantune.training.callbacks import SilentObserver
from leantune.training.dataset import plan_steps
from leantune.training.finalize import evaluate_part
from leantune.training.head_init import PROBE_SCALE, scale_output_layer
from leantune.training.history import Display
from leantune.training.loop import Phase, train
from leantune.training.starts import start_adapters, start_head

SHARE = 3
"""A candidate takes one of so many steps."""
WAYS: Sequence[tuple[Literal["adalora", "lora"] | None, str | None]] = (
    ("lora", "all-linear"),
    ("adalora", "attention"),
)
"""Method and targets."""
SLOWER = 3
"""Beside the default learning rate, one that is so many times lower."""


def candidates(asked: Recipe, resolved: Recipe) -> list[Recipe]:
    """The recipes to try, the default first.

    Args:
        asked: as the user wrote it: what it names, every candidate has.
        resolved: the same with all that it leaves to encoder and rows.
    """
    ways = [(resolved.method, resolved.targets)]
    if (
        asked.targets is None
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
    """Try `candidates` and leave ``run`` with the best of them; without validation rows, or with a single candidate,
    nothing is tried.

    Returns:
        what was tried, in that order.
    """
    recipes = candidates(asked, run.recipe)
    if len(recipes) == 1 or not len(run.data.validation):
        return []
    tried = []
    for number, recipe in enumerate(recipes, start=1):
        run.console.print(f"trying candidate {number} of {len(recipes)}")
        found = _try(run, recipe)
        tried.append(found)
        if found.log_loss is not None:
            run.console.print(
                f"{_described(recipe)}: validation log loss {found.log_loss:.3f} after {found.steps} steps"
            )
    losses = [float("inf") if each.log_loss is None else each.log_loss for each in tried]
    run.recipe = recipes[losses.index(min(losses))]
    run.recipe, run.plan = plan_run(run.recipe, run.pretrained)
    run.steps = plan_steps(run.recipe, run.plan, len(run.data.train))
    run.console.print(f"chosen: {_described(run.recipe)}")
    return tried


def _described(recipe: Recipe) -> str:
    return f"method={recipe.method} targets={recipe.targets} learning_rate={recipe.learning_rate:g}"


def _try(run: Run, recipe: Recipe) -> CandidateRecord:
    """Train a candidate for its share of the steps; one that diverges or does not fit has no measures."""
    started = time.perf_counter()
    assert recipe.epochs is not None, "with_pace sets it"
    short = replace(recipe, epochs=max(1, round(recipe.epochs / SHARE)))
    steps, metrics = 0, None
    try:
        short, plan = plan_run(short, run.pretrained)
        trial = replace(run, recipe=short, plan=plan, steps=plan_steps(short, plan, len(run.data.train)))
        steps = trial.steps.total_steps
        metrics = evaluate_part(trial, _trained(trial), "validation")
        run.probe = trial.probe
    except (DivergedError, UsageError) as error:
        run.console.print(f"{_described(recipe)}: {error}", soft_wrap=True)
    return CandidateRecord(
        method=str(recipe.method),
        targets=str(recipe.targets),
        learning_rate=recipe.learning_rate or 0.0,
        steps=steps,
        accuracy=metrics.accuracy if metrics else None,
        log_loss=metrics.log_loss if metrics else None,
        seconds=time.perf_counter() - started,
    )


def _trained(trial: Run) -> Classifier:
    classifier = build_classifier(trial)
    if trial.recipe.advanced.warm_start:
        start_head(trial, classifier)
        scale_output_layer(classifier, PROBE_SCALE)
    if trial.recipe.advanced.adapter_init == "gradient":
        start_adapters(trial, classifier)
    phase = Phase(
        rows=trial.data.train,
        steps_per_epoch=trial.steps.steps_per_epoch,
        total_steps=trial.steps.total_steps,
        lr_warmup_steps=trial.steps.lr_warmup_steps,
        seed=trial.recipe.seed,
        class_weights=class_weights(trial, trial.data.train),
    )
    with Display(phase.total_steps, trial.console) as display:
        train(fresh_state(trial, classifier, trial.steps.ranks), phase, trial.recipe, SilentObserver(display))
    return classifier
