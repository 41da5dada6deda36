"""Plan what a recipe would train, without loading weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leantune.adalora.budget import ParameterPlan
from leantune.assets.download import resolve_location
from leantune.config import Recipe
from leantune.data.text.read import open_examples
from leantune.errors import MissingFileError, UsageError
from leantune.model.build import missing_head_modules, skeleton_of, unseen_head_modules
from leantune.model.hub import resolve_model
from leantune.model.pretrained import Pretrained
from leantune.system.damage import explained_damage
from leantune.training.before.dataset import StepPlan, columns_of, plan_steps, prepare_data
from leantune.training.before.defaults import with_pace, with_task
from leantune.training.before.placement import next_size
from leantune.training.build import plan_run


@dataclass(frozen=True, slots=True)
class Plan:
    """The parameter budget of a recipe, and its schedule."""

    recipe: Recipe
    num_labels: int
    parameters: ParameterPlan
    steps: StepPlan | None
    """None if the rows are not available, because the number of steps is then unknown."""
    missing: str
    """Why the rows are not available; empty if they are."""
    unseen: Mapping[str, int]
    """Parameters of modules that are also trained if the weights, which are not loaded here, lack them."""
    larger: tuple[int, str] | None
    """The smallest larger limit that pays for more, and what it pays for; None without a limit or with ranks given."""
    notes: Sequence[str]
    """How the files of rows were read where there was a choice, one line each."""


def plan(recipe: Recipe, *, missing: str = "") -> Plan:
    """Plan a run.

    If the recipe names its labels, a source that is not available only leaves the schedule open. Otherwise the labels
    come from the rows.

    Args:
        recipe: the run's recipe, which must name its labels if ``missing`` is given.
        missing: why there are no rows, if that is known.

    Raises:
        UsageError: if the model does not exist, or the recipe is invalid.
        DataError: for invalid rows.
        UnsafeFileError: for a file or model that could run code.
    """
    source = resolve_model(recipe.model, with_weights=False)
    # report an invalid model before reading rows
    with explained_damage(f"model {recipe.model}", is_of_run=False):
        found = Pretrained.at(source, trust_remote_code=recipe.trust_remote_code)
    missing = missing or _why_no_rows(recipe)
    data = None if missing else prepare_data(recipe)
    recipe = recipe if data is None else with_task(recipe, data.labels)
    recipe = with_pace(recipe, found.config, None if data is None else len(data.train))
    num_labels = len(recipe.labels or ()) if data is None else len(data.labels.names)
    pretrained = Pretrained.at(source, num_labels=num_labels, trust_remote_code=recipe.trust_remote_code)
    asked = recipe
    recipe, parameters = plan_run(recipe, pretrained)
    steps = None if data is None else plan_steps(recipe, parameters, len(data.train))
    larger = next_size(asked, recipe, parameters, skeleton_of(pretrained), missing_head_modules(pretrained))
    unseen = unseen_head_modules(pretrained)
    notes = () if data is None else data.notes
    return Plan(recipe, num_labels, parameters, steps, missing, unseen, larger, notes)


def _why_no_rows(recipe: Recipe) -> str:
    """Why the rows of a recipe that names its labels are not available; empty if they are, or are required."""
    if not recipe.labels or recipe.data == "-":  # standard input can be read only once
        return ""
    try:
        open_examples(resolve_location(recipe.data), columns_of(recipe), labels="required")
    except MissingFileError:  # mistyped: the file will not appear later
        raise
    except UsageError as error:
        return str(error)
    return ""
