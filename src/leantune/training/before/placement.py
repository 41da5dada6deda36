"""Which parameters are trained within a limit: the largest of a ladder of ways that the limit pays for.

C classes, D width of the encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from leantune.adalora.budget import ParameterPlan, full_rank, smallest_limit
from leantune.adalora.method import METHODS
from leantune.config import Recipe
from leantune.errors import UsageError
from leantune.model.adapt import (
    ALL_LINEAR,
    HEAD_ONLY,
    head_size,
    low_rank_size,
    num_layers,
    plan_model,
    targets_of,
)
from leantune.model.classifier import Classifier

LEAST_RANK = 2
"""Rank of LoRA in all linear layers from which on no other way was better (benchmarks/notebook)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What a run trains, and the smallest limit that pays for it."""

    targets: str
    method: Literal["adalora", "lora"]
    head: Literal["full", "linear"]
    layers: int | None = None
    head_rank: int | None = None
    rank: int
    """Smallest rank of the adapters that is worth training; 0 without adapters."""
    smallest: int
    """Limit that pays for it."""

    def applied_to(self, recipe: Recipe) -> Recipe:
        """Return the recipe with this choice."""
        return replace(
            recipe,
            targets=self.targets,
            method=self.method,
            head=self.head,
            layers=self.layers,
            head_rank=self.head_rank,
        )


def with_placement(recipe: Recipe, shell: Classifier, missing_modules: tuple[str, ...] = ()) -> Recipe:
    """Return the recipe with the limit as a number, and with what it leaves open: method, targets, layers and head.

    Args:
        recipe: the recipe of the run.
        shell: the classifier without weights.
        missing_modules: see `model.build.missing_head_modules`.

    Raises:
        UsageError: if the limit pays for nothing that the recipe allows; the message has the smallest limit that does.
    """
    recipe = with_count(recipe, shell)
    ways = list(ways_of(recipe, shell, missing_modules))
    limit = recipe.max_trainable_params
    if limit is None or _has_ranks(recipe):
        return ways[0].applied_to(recipe)
    for way in ways:
        if way.smallest <= limit:
            return way.applied_to(recipe)
    raise UsageError(_too_small(recipe, shell, missing_modules, min(way.smallest for way in ways)))


def placed(
    recipe: Recipe, shell: Classifier, missing_modules: tuple[str, ...] = ()
) -> tuple[Recipe, ParameterPlan]:
    """Return the recipe with the choice of `with_placement`, and its parameters.

    Raises:
        UsageError: as `with_placement` and `plan_model`.
    """
    recipe = with_placement(recipe, shell, missing_modules)
    limit = recipe.max_trainable_params
    assert recipe.targets is not None, "with_placement sets it"
    assert recipe.method is not None
    assert recipe.head is not None
    assert limit is None or isinstance(limit, int)
    return recipe, plan_model(
        shell,
        targets=recipe.targets,
        layers=recipe.layers,
        head=recipe.head,
        head_rank=recipe.head_rank,
        limit=limit,
        init_rank=recipe.init_rank,
        target_rank=recipe.target_rank,
        method=recipe.method,
        missing_modules=missing_modules,
    )


def with_count(recipe: Recipe, shell: Classifier) -> Recipe:
    """Return the recipe with a limit that is a share of the encoder's parameters as a number."""
    limit = recipe.max_trainable_params
    if limit is None or limit >= 1:
        return replace(recipe, max_trainable_params=None if limit is None else int(limit))
    weights = shell.named_weights().items()
    encoder = sum(weight.numel() for name, weight in weights if name.startswith(f"{shell.prefix}."))
    return replace(recipe, max_trainable_params=max(1, int(limit * encoder)))


def ways_of(recipe: Recipe, shell: Classifier, missing_modules: tuple[str, ...] = ()) -> Iterator[Way]:
    """Yield what the recipe can train, the largest first.

    Where the limit pays for it, that is LoRA of one rank in all linear layers. Below that, query and value are adapted,
    first with AdaLoRA, then with LoRA of rank 1 in fewer and fewer of the last layers. Below that, the head is trained
    alone, and with many classes as a product of two matrices of low rank. Fewer layers were better than biases and
    norms, and than more targets in a layer (benchmarks/notebook).
    """
    last_head = recipe.head or ("linear" if _has_hidden_layer(recipe, shell, missing_modules) else "full")
    for number, (targets, method, rank, layers) in enumerate(_adapters(recipe, shell)):
        heads = dict.fromkeys([recipe.head or "full", last_head] if number == 0 else [last_head])
        adapted = targets_of(shell, targets, method=method, layers=layers)
        for head in heads:
            size = head_size(shell, head, recipe.head_rank, missing_modules)
            yield Way(
                targets=targets,
                method=method,
                layers=layers,
                head=head,
                head_rank=recipe.head_rank,
                rank=rank,
                smallest=smallest_limit(adapted, head=size, rank=rank),
            )
    if recipe.targets not in (None, HEAD_ONLY) or not _allows_lora(recipe) or _has_ranks(recipe):
        return
    size = head_size(shell, last_head, recipe.head_rank, missing_modules)
    yield Way(
        targets=HEAD_ONLY, method="lora", head=last_head, head_rank=recipe.head_rank, rank=0, smallest=size
    )
    if recipe.head_rank is not None:
        return
    num_classes, width = shell.output_layer.weight.shape
    for head_rank in range(min(num_classes, width) - 1, 0, -1):
        smaller = low_rank_size(size, num_classes, width, head_rank)
        if smaller < size:
            yield Way(
                targets=HEAD_ONLY,
                method="lora",
                head=last_head,
                head_rank=head_rank,
                rank=0,
                smallest=smaller,
            )


def _adapters(
    recipe: Recipe, shell: Classifier
) -> Iterator[tuple[str, Literal["adalora", "lora"], int, int | None]]:
    """Yield targets, method, the rank that the limit must pay for, and the number of layers."""
    asked, layers, allows_lora = recipe.targets, recipe.layers, _allows_lora(recipe)
    if asked == HEAD_ONLY:
        return
    if asked is None and allows_lora and not _has_ranks(recipe):
        yield ALL_LINEAR, "lora", LEAST_RANK, layers
    targets = asked or ("attention" if shell.attention_targets else ALL_LINEAR)
    if recipe.method != "lora" and not (targets == ALL_LINEAR and allows_lora):
        yield targets, "adalora", METHODS["adalora"].smallest_rank, layers
    method: Literal["adalora", "lora"] = "lora" if allows_lora else "adalora"
    rank = METHODS[method].smallest_rank
    if allows_lora:
        yield targets, method, rank, layers
    if layers is not None:
        return
    for fewer in range(num_layers(shell) - 1, 0, -1):
        yield targets, method, rank, fewer
    if asked is None and allows_lora and targets == "attention" and len(shell.attention_targets) > 1:
        yield shell.attention_targets[0], method, rank, 1


def _allows_lora(recipe: Recipe) -> bool:
    return recipe.method != "adalora" and recipe.advanced.adapter_init != "normal"


def _has_ranks(recipe: Recipe) -> bool:
    return recipe.init_rank is not None or recipe.target_rank is not None


def _has_hidden_layer(recipe: Recipe, shell: Classifier, missing_modules: tuple[str, ...]) -> bool:
    """Return whether the head has more than its output layer."""
    full, linear = (head_size(shell, head, recipe.head_rank, missing_modules) for head in ("full", "linear"))
    return linear < full


def next_size(
    asked: Recipe,
    recipe: Recipe,
    plan: ParameterPlan,
    shell: Classifier,
    missing_modules: tuple[str, ...] = (),
) -> tuple[int, str] | None:
    """Return the smallest limit above the recipe's that pays for more, and what it pays for.

    Args:
        asked: the recipe as the user wrote it.
        recipe: the same with the choice of `with_placement`.
        plan: its parameters.
        shell: the classifier without weights.
        missing_modules: see `model.build.missing_head_modules`.

    Returns:
        the limit and a name; None without a limit, if ranks are given, or if nothing larger can be trained.
    """
    limit = plan.limit
    if limit is None or _has_ranks(asked):
        return None
    larger = [
        (way.smallest, name_of(way.applied_to(recipe), way.rank))
        for way in ways_of(replace(asked, max_trainable_params=limit), shell, missing_modules)
        if way.smallest > limit
    ]
    # last in the list: of two that cost the same, `with_placement` takes the way of the ladder
    if plan.targets and plan.init_rank < full_rank(plan.targets):
        larger.append((plan.initial + plan.per_rank, name_of(recipe, plan.init_rank + 1)))
    return min(larger, default=None, key=lambda each: each[0])


def name_of(recipe: Recipe, rank: int) -> str:
    """Return in words what a recipe trains: the method, the layers, the rank and the head."""
    if recipe.targets == HEAD_ONLY:
        adapters = "the head alone"
    else:
        where = {ALL_LINEAR: "all linear layers", "attention": "query and value"}
        targets = str(recipe.targets)
        adapters = f"{METHODS[str(recipe.method)].title} in {where.get(targets, targets)}"
        if recipe.layers is not None:
            adapters += f" of the last {recipe.layers} layers" if recipe.layers > 1 else " of the last layer"
        adapters += f", rank {rank}"
    if recipe.head_rank is not None:
        return f"{adapters}, as a product of rank {recipe.head_rank}"
    return f"{adapters}, linear head" if recipe.head == "linear" else adapters


def _too_small(recipe: Recipe, shell: Classifier, missing_modules: tuple[str, ...], smallest: int) -> str:
    message = (
        f"max_trainable_params={recipe.max_trainable_params:,} is too small: the smallest limit that fits is "
        f"{smallest:,}"
    )
    names = ("targets", "method", "layers", "head", "head_rank")
    given = [f"{name}={value}" for name in names if (value := getattr(recipe, name)) is not None]
    if not given:
        return message
    open_recipe = replace(recipe, targets=None, method=None, layers=None, head=None, head_rank=None)
    least = min(way.smallest for way in ways_of(open_recipe, shell, missing_modules))
    return f"{message} with {' and '.join(given)}; without, {least:,}"
