"""The trials of a search: each trains one candidate on rows that all share, inside the limit, and tells how it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from leantune.cluster.search.space import Space, default_space, with_values
from leantune.config import Recipe
from leantune.config.problem_type import MULTI_LABEL
from leantune.errors import DivergedError, UsageError
from leantune.evaluation.metrics import Metrics
from leantune.system.console import console
from leantune.system.messages import one_line
from leantune.training.before.dataset import plan_steps
from leantune.training.before.truncation import choose_truncation_side
from leantune.training.build import Run, plan_run, prepare_run
from leantune.training.trial import measured

PERMILLE = 1000
"""What a trial has used of its steps is told in these, so that trials of different epochs compare."""

Status = Literal["finished", "stopped", "diverged", "too large", "interrupted", "running"]
Report = Callable[[int, float], bool]
"""Told how much of its steps a trial has used, in `PERMILLE`, and the validation metric; whether it goes on."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a search begins with, the same in every process that runs trials."""

    asked: Recipe
    """Of the user, without test rows; its output is the folder of the search."""
    space: Space | None
    """None: `default_space`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What became of one set of values."""

    status: Status
    value: float | None = None
    """The validation metric of the checkpoint that the run would take; of a stopped trial the last one."""
    parameters: int | None = None
    """Trainable, at the start."""
    used: float = 0.0
    """Share of its steps that were taken."""
    seconds: float = 0.0
    error: str = ""


@lru_cache(maxsize=1)
def prepared(search: Candidate) -> Run:
    """Rows, tokens and hold-out that all trials share; once in a process.

    Raises:
        UsageError: if there are no validation rows to tell trials apart, or the recipe cannot be.
        DataError: for rows that are not what they must be.
    """
    run = prepare_run(search.asked, console=console(stderr=True, quiet=True), overwrite=False, resume=False)
    choose_truncation_side(run)
    if run.data.labels.is_multi_label and search.asked.problem_type is None:
        raise UsageError(
            "the rows have several labels, and a search says before it begins what it is for: set "
            f"problem_type={MULTI_LABEL}"
        )
    if not len(run.data.validation):
        raise UsageError(
            "a search needs validation rows: set validation=FILE, or validation_size=200 for a hold-out"
        )
    return run


def space_of(search: Candidate) -> Space:
    """What is tried.

    Raises:
        UsageError: if there is nothing to try.
    """
    if search.space is not None:
        return search.space
    run, asked = prepared(search), search.asked

    def rank_of(targets: str) -> int | None:
        try:
            return plan_run(replace(asked, targets=targets), run.pretrained)[1].init_rank
        except UsageError:  # the limit pays for nothing there
            return None

    return default_space(asked, run.recipe, rank_of, 1 if asked.method == "lora" else 2)


def defaults_of(search: Candidate) -> dict[str, Any]:
    """What a run of the recipe as it is would have, by key of the space."""
    run = prepared(search)
    values = run.recipe.by_key() | {"init_rank": run.plan.init_rank}
    return {key: values[key] for key in space_of(search).keys}


def recipe_with(search: Candidate, values: Mapping[str, Any]) -> Recipe:
    """The recipe of a candidate, with all that it leaves open.

    Raises:
        UsageError: if it does not fit the limit, or cannot be.
    """
    return _planned(search, values).recipe


def _planned(search: Candidate, values: Mapping[str, Any]) -> Run:
    """The run of a candidate, on the rows of all: no weight is loaded yet.

    Raises:
        UsageError: if it does not fit the limit, or cannot be.
    """
    run = prepared(search)
    decided = {
        key: getattr(run.recipe, key)
        for key in ("learning_rate", "epochs", "truncation_side", "metric")
        if getattr(search.asked, key) is None
    }
    recipe, plan = plan_run(with_values(search.asked, decided | dict(values)), run.pretrained)
    limit = recipe.max_trainable_params
    assert limit is None or plan.initial <= limit, (
        f"{plan.initial} trainable parameters, the limit is {limit}"
    )
    return replace(run, recipe=recipe, plan=plan, steps=plan_steps(recipe, plan, len(run.data.train)))


def run_trial(search: Candidate, values: Mapping[str, Any], report: Report) -> Trial:
    """Train a candidate, unless it does not fit: then nothing is trained.

    Args:
        search: what all trials share.
        values: by key of the space.
        report: told after each evaluation but the last.
    """
    started = time.perf_counter()
    try:
        trial = _planned(search, values)
    except UsageError as error:
        return Trial(status="too large", error=one_line(error))
    total, metric = trial.steps.total_steps, trial.recipe.selection_metric
    last = Trial(status="stopped", parameters=trial.plan.initial)

    def goes_on(step: int, metrics: Metrics) -> bool:
        nonlocal last
        last = replace(last, value=value_of(metrics, metric), used=step / total)
        assert last.value is not None
        return step == total or report(step * PERMILLE // total, last.value)

    try:
        chosen = measured(trial, goes_on)
    except DivergedError as error:
        last = replace(last, status="diverged", value=None, error=one_line(error))
    else:
        if chosen is not None:
            assert chosen.metrics is not None
            last = replace(last, status="finished", value=chosen.metrics[metric])
    return replace(last, seconds=time.perf_counter() - started)


def value_of(metrics: Metrics, metric: str) -> float:
    """One of the measures, by its name in a recipe."""
    return float(getattr(metrics, metric))


def best_recipe(search: Candidate, values: Mapping[str, Any], test: str | None) -> Recipe:
    """The recipe of the winner, with the test rows that no trial has seen."""
    folder = Path(search.asked.output) / "winner"
    return replace(recipe_with(search, values), test=test, output=str(folder))
