"""Train a classifier for some more steps, with fixed ranks and a new optimiser."""

from __future__ import annotations

from leantune.adalora.schedule import RankSchedule
from leantune.data.tokens.dataset import LabelledRows
from leantune.model.classifier import Classifier
from leantune.system import distributed
from leantune.training.before.dataset import lr_warmup_steps
from leantune.training.build import Run, class_weights, fresh_state
from leantune.training.callbacks import SilentObserver
from leantune.training.history import Display
from leantune.training.loop import Phase, train


def tune(
    run: Run,
    classifier: Classifier,
    rows: LabelledRows,
    *,
    steps: int,
    steps_per_epoch: int,
    turn: int,
    what: str = "training",
) -> float:
    """Train for some steps with a learning rate that rises and falls; nothing is evaluated or saved.

    Args:
        run: its recipe sets the hyperparameters.
        classifier: its trainable parameters are trained.
        rows: training rows.
        steps: number of optimiser steps.
        steps_per_epoch: number of steps in one pass over ``rows``.
        turn: number of this phase within the run; gives it its own row order and dropout.
        what: names the phase to the user.

    Returns:
        the seconds that the steps took.
    """
    recipe = run.recipe
    classifier.stream.reseed(recipe.seed, turn, distributed.rank())
    live = sum(layer.rank for layer in classifier.adapted_layers().values())
    fixed = RankSchedule(
        init_budget=live,
        target_budget=live,
        total_steps=steps,
        warmup_steps=0,
        final_steps=0,
        allocate_every=1,
    )
    state = fresh_state(run, classifier, fixed)
    phase = Phase(
        rows=rows,
        steps_per_epoch=steps_per_epoch,
        total_steps=steps,
        lr_warmup_steps=lr_warmup_steps(recipe, steps),
        seed=recipe.seed + turn,
        class_weights=class_weights(run, rows),
    )
    with Display(steps, run.console, what) as display:
        train(state, phase, recipe, SilentObserver(display))
    return state.train_s
