"""What a recipe would train, found out without loading a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from leantune.adalora.budget import ParameterPlan
from leantune.config import Recipe
from leantune.data.assets import resolve_location
from leantune.data.read import open_examples
from leantune.errors import UsageError
from leantune.pretrained import config_of, unseen_head_modules
from leantune.sources import resolve_model
from leantune.training.prepare import StepPlan, columns_of, plan_steps, prepare_data, resolve
from leantune.training.setup import plan_run


@dataclass(frozen=True, slots=True)
class Plan:
    """The ledger of a recipe, and its schedule."""

    recipe: Recipe
    num_labels: int
    parameters: ParameterPlan
    steps: StepPlan | None
    """None if the rows cannot be had; the number of steps is not known then."""
    missing: str = ""
    """Why not."""
    unseen: Mapping[str, int] = field(default_factory=dict)
    """Parameters of modules that are trained, too, if the weights, which are not here, lack them."""


def plan(recipe: Recipe) -> Plan:
    """Plan a run.

    Labels come from the recipe where it names them: then a source of rows that cannot be had leaves the
    schedule open. Otherwise the rows say which labels there are.

    Raises:
        UsageError: if the model cannot be had, or the recipe cannot be.
        DataError: for rows that are not what they must be.
        UnsafeFileError: for a file or model that could run code.
    """
    source = resolve_model(recipe.model, with_weights=False)

    def config(num_labels: int | None = None) -> Any:
        return config_of(source, num_labels=num_labels, trust_remote_code=recipe.trust_remote_code)

    recipe = resolve(recipe, config())  # a model that cannot be is told before rows are read
    if recipe.labels and recipe.data != "-":  # standard input is always there, and can be read once
        try:
            open_examples(resolve_location(recipe.data), columns_of(recipe), labels="required")
        except UsageError as error:
            num_labels = len(recipe.labels)
            parameters = plan_run(recipe, config(num_labels), source)
            unseen = unseen_head_modules(config(num_labels), source)
            return Plan(recipe, num_labels, parameters, None, str(error), unseen)
    data = prepare_data(recipe)
    num_labels = len(data.labels.names)
    parameters = plan_run(recipe, config(num_labels), source)
    steps = plan_steps(recipe, parameters, len(data.train))
    unseen = unseen_head_modules(config(num_labels), source)
    return Plan(recipe, num_labels, parameters, steps, unseen=unseen)
