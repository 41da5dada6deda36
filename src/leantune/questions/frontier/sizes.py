"""The sizes of a frontier: recipes from the largest classifier to the smallest, and pruning of one to another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from leantune.adalora.low_rank import nearest_of_rank, put
from leantune.adalora.triplets import Triplets
from leantune.config import Recipe
from leantune.errors import UsageError
from leantune.model.adapt import ALL_LINEAR, HEAD_ONLY
from leantune.model.build import missing_head_modules
from leantune.model.classifier import Classifier
from leantune.training.build import Run, plan_run

LARGEST_RANK = 16
"""Rank of all linear layers if the recipe sets neither a parameter limit nor a rank."""


def largest(recipe: Recipe) -> Recipe:
    """Return the recipe of the largest classifier, which uses LoRA.

    A parameter limit or a rank in the recipe is kept; otherwise the rank is `LARGEST_RANK`. Without a limit, the
    default targets are all linear layers.
    """
    if recipe.init_rank is not None or recipe.target_rank is not None:
        return replace(recipe, method="lora", targets=recipe.targets or ALL_LINEAR)
    if recipe.max_trainable_params is not None:
        return replace(recipe, method="lora")
    return replace(recipe, method="lora", targets=recipe.targets or ALL_LINEAR, init_rank=LARGEST_RANK)


def rungs_of(run: Run) -> list[Recipe]:
    """Return recipes from the largest to the smallest classifier.

    They combine halved ranks with the full head, with its output layer only, and with adapters in query and value only.
    Each recipe after the first can be pruned from an earlier one.
    """
    asked, rank = run.recipe, run.plan.init_rank
    assert asked.head is not None, "plan_run sets it"
    if asked.targets == HEAD_ONLY:
        return [asked]
    ranks = [rank >> i for i in range(rank.bit_length())]
    _, smaller = plan_run(replace(asked, head="linear"), run.pretrained)
    heads: list[Literal["full", "linear"]] = [asked.head]
    if smaller.head < run.plan.head:
        heads.append("linear")
    wished = [(head, asked.targets, each) for head in heads for each in ranks]
    if asked.targets == ALL_LINEAR:
        wished += [(heads[-1], "attention", each) for each in ranks]
    rungs: list[Recipe] = []
    smallest = math.inf
    for head, targets, each in wished:
        recipe = replace(asked, head=head, targets=targets, init_rank=each, target_rank=None)
        recipe = replace(recipe, max_trainable_params=None)
        try:
            _, plan = plan_run(recipe, run.pretrained)
        except UsageError:  # the encoder's query and value layers are unknown
            continue
        if plan.initial < smallest:
            smallest = plan.initial
            rungs.append(replace(recipe, max_trainable_params=plan.initial))
    return rungs


@dataclass(frozen=True, slots=True)
class Weights:
    """A copy of a classifier's adapters and head on the CPU."""

    triplets: dict[str, Triplets]
    head: dict[str, Tensor]
    """Weights of the full head by name."""

    @classmethod
    def of(cls, classifier: Classifier) -> Weights:
        """Copy the weights of a classifier."""
        layers, head = classifier.adapted_layers(), classifier.head_weights("full", classifier.pooler_names)
        return cls(
            triplets={name: layer.triplets() for name, layer in layers.items()},
            head={name: weight.detach().cpu().clone() for name, weight in head.items()},
        )


def parent_of(rung: Recipe, trained: Sequence[tuple[Recipe, Weights]]) -> Weights:
    """Return the weights of the smallest classifier with all adapters and ranks of ``rung``."""
    wide = [
        weights
        for recipe, weights in trained
        if _rank_of(recipe) >= _rank_of(rung) and recipe.targets in (rung.targets, ALL_LINEAR)
    ]
    return wide[-1]


def _rank_of(recipe: Recipe) -> int:
    assert recipe.init_rank is not None, "rungs_of sets it"
    return recipe.init_rank


@torch.no_grad()
def cut(classifier: Classifier, trial: Run, parent: Weights, untrained: Weights) -> None:
    """Prune ``parent`` to the size of ``trial`` and load the result into ``classifier``.

    Args:
        classifier: a classifier with adapters in all targets of ``trial``. Adapters of other layers are removed.
        trial: a run with a smaller recipe.
        parent: weights with at least the rank of ``trial``.
        untrained: weights before the first step, used for parts of the head that ``trial`` does not train.
    """
    rank, kept = trial.plan.init_rank, {target.name for target in trial.plan.targets}
    for name, layer in classifier.adapted_layers().items():
        if name in kept:
            put(layer, nearest_of_rank(parent.triplets[name], rank))
        else:
            classifier.replace(name, layer.base)
    trained = classifier.head_weights(trial.recipe.head or "full", missing_head_modules(trial.pretrained))
    for name, weight in classifier.head_weights("full", classifier.pooler_names).items():
        weight.requires_grad_(name in trained)
        weight.copy_((parent if name in trained else untrained).head[name])
