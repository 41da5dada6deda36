"""What a recipe leaves open, decided by the encoder and the number of rows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from leantune.config import Recipe
from leantune.config.problem_type import MULTI_LABEL, SINGLE_LABEL
from leantune.data.labels import LabelMap
from leantune.errors import UsageError
from leantune.model.adapt import ALL_LINEAR, plan_model
from leantune.model.classifier import Classifier
from leantune.training.optimizer import default_learning_rate

EPOCHS = 3
ENOUGH_STEPS = 200
"""Below these, three epochs leave an encoder where it was; there are more then."""
MOST_EPOCHS = 30
FEW_ROWS = 300
"""Below these, a text is soon known by heart: a lower rate was better (benchmarks/notebook)."""
LEAST_RANK = 2
"""The rank of LoRA in all linear layers that a limit must pay for; else query and value are adapted."""


def with_task(recipe: Recipe, labels: LabelMap) -> Recipe:
    """The recipe with the ``problem_type`` and the ``metric`` that it leaves to the labels.

    Raises:
        UsageError: for what these labels cannot be trained with.
    """
    if not labels.is_multi_label:
        if recipe.metric in ("micro_f1", "lrap"):
            raise UsageError(
                f"metric={recipe.metric} is only for several labels per text, and here each text has one: "
                "use accuracy or macro_f1"
            )
        return replace(recipe, metric=recipe.selection_metric)
    if recipe.problem_type == SINGLE_LABEL:
        raise UsageError(
            f"problem_type={SINGLE_LABEL}, and the cells of the label column are lists: give each row one label, or "
            "leave problem_type out"
        )
    single_only = {
        "unlabelled": recipe.unlabelled is not None,
        "loss=robust": recipe.loss == "robust",
    }
    refused = [name for name, is_given in single_only.items() if is_given]
    if refused:
        raise UsageError(
            f"{' and '.join(refused)}: only for one label per text, and these rows have several; leave it out"
        )
    recipe = replace(recipe, problem_type=MULTI_LABEL)
    return replace(recipe, metric=recipe.selection_metric)


def with_pace(recipe: Recipe, config: Any, num_rows: int | None) -> Recipe:
    """The recipe with the learning rate and the epochs that it leaves to the encoder of ``config`` and to the number of
    training rows, or to the encoder alone if that is None.

    >>> from types import SimpleNamespace
    >>> recipe = Recipe(data="rows.csv", model="encoder")
    >>> for num_rows in (32, 500, 2_000, 100_000):
    ...     resolved = with_pace(recipe, SimpleNamespace(hidden_size=384), num_rows)
    ...     print(resolved.epochs, resolved.learning_rate)
    30 0.001
    13 0.003
    4 0.003
    3 0.003
    """
    rate, epochs = recipe.learning_rate, recipe.epochs
    if rate is None:
        rate = default_learning_rate(getattr(config, "hidden_size", 768))
        if num_rows is not None and num_rows < FEW_ROWS:
            rate = for_few_rows(rate)
    if epochs is None:
        epochs = EPOCHS if num_rows is None else default_epochs(num_rows, recipe.batch_size)
    return replace(recipe, learning_rate=rate, epochs=epochs)


def default_epochs(num_rows: int, batch_size: int) -> int:
    """Three, or as many as `ENOUGH_STEPS` take, but for `MOST_EPOCHS`."""
    steps = max(1, math.ceil(num_rows / batch_size))
    return min(MOST_EPOCHS, max(EPOCHS, math.ceil(ENOUGH_STEPS / steps)))


def for_few_rows(learning_rate: float) -> float:
    """The learning rate for fewer than `FEW_ROWS` rows."""
    return float(f"{learning_rate / 3:.3g}")


def with_adapters(recipe: Recipe, shell: Classifier, missing_modules: tuple[str, ...] = ()) -> Recipe:
    """The recipe with the method and the targets that it leaves open.

    LoRA of one rank in all linear layers is what travels best (docs/adalora.md). Where ranks are given, where the
    method is AdaLoRA, or where the limit pays for less than `LEAST_RANK` there, query and value are adapted; but for
    all linear layers the method is AdaLoRA.

    Args:
        recipe: of the run.
        shell: the classifier without weights.
        missing_modules: see `model.build.missing_head_modules`.
    """
    targets, method = recipe.targets, recipe.method
    if targets is None:
        has_ranks = recipe.init_rank is not None or recipe.target_rank is not None
        is_open = method != "adalora" and not has_ranks and recipe.advanced.adapter_init != "normal"
        targets = ALL_LINEAR if is_open and _pays_for_all(recipe, shell, missing_modules) else "attention"
    if method is None:
        is_even = targets == ALL_LINEAR and recipe.advanced.adapter_init != "normal"
        method = "lora" if is_even else "adalora"
    return replace(recipe, targets=targets, method=method)


def _pays_for_all(recipe: Recipe, shell: Classifier, missing_modules: tuple[str, ...]) -> bool:
    try:
        plan = plan_model(
            shell,
            targets=ALL_LINEAR,
            head=recipe.head,
            limit=recipe.max_trainable_params,
            init_rank=None,
            target_rank=None,
            method="lora",
            missing_modules=missing_modules,
        )
    except UsageError:
        return False
    return plan.init_rank >= LEAST_RANK
