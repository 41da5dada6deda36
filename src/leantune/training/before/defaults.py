"""Defaults for what a recipe leaves open, decided by the encoder and the number of rows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from leantune.config import Recipe
from leantune.config.problem_type import MULTI_LABEL, SINGLE_LABEL
from leantune.data.labels import LabelMap
from leantune.errors import UsageError
from leantune.training.optimizer import default_learning_rate

EPOCHS = 3
ENOUGH_STEPS = 200
"""With fewer steps, three epochs hardly change an encoder, so there are more epochs."""
MOST_EPOCHS = 30
FEW_ROWS = 300
"""Below this number of rows the model soon memorises them, and a lower rate was better (benchmarks/notebook)."""


def with_task(recipe: Recipe, labels: LabelMap) -> Recipe:
    """Fill in the ``problem_type`` and the ``metric`` from the labels, if the recipe leaves them open.

    Raises:
        UsageError: if the recipe asks for something that does not work with these labels.
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
    """Fill in the learning rate and the epochs from the encoder's ``config`` and the number of training rows.

    If the number is None, only the encoder decides.

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
    """Three epochs; more to reach `ENOUGH_STEPS`, at most `MOST_EPOCHS`."""
    steps = max(1, math.ceil(num_rows / batch_size))
    return min(MOST_EPOCHS, max(EPOCHS, math.ceil(ENOUGH_STEPS / steps)))


def for_few_rows(learning_rate: float) -> float:
    """The learning rate for fewer than `FEW_ROWS` rows."""
    return float(f"{learning_rate / 3:.3g}")
