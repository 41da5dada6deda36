"""The trials of a search: each trains one candidate within the limit on shared rows, and reports its progress."""

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
"""Unit of a trial's progress, which makes trials with different numbers of epochs comparable."""

Status = Literal["finished", "stopped", "diverged", "too large", "interrupted", "running"]
Report = Callable[[int, float], bool]
"""Callback with a trial's progress in `PERMILLE` and its validation metric; returns whether the trial continues."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings shared by all processes that run trials."""

    asked: Recipe
    """The user's recipe without test rows; its output is the search folder."""
    space: Space | None
    """The search space; None for `default_space`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The result of training with one set of values."""

    status: Status
    value: float | None = None
    """Validation metric of the checkpoint that a run would select; of the last evaluation if the trial was stopped."""
    parameters: int | None = None
    """Number of trainable parameters at the start."""
    used: float = 0.0
    """Share of the planned steps that were trained."""
    seconds: float = 0.0
    error: str = ""


@lru_cache(maxsize=1)
def prepared(search: Candidate) -> Run:
    """Prepare the rows, tokens and hold-out that all trials share, once per process.

    Raises:
        UsageError: if there are no validation rows, or the recipe is invalid.
        DataError: if rows are invalid.
    """
    run = prepare_run(search.asked, console=console(stderr=True, quiet=True), overwrite=False, resume=False)
    choose_truncation_side(run)
    if run.data.labels.is_multi_label and search.asked.problem_type is None:
        raise UsageError(
            f"the rows have several labels: a search needs an explicit problem type, set problem_type={MULTI_LABEL}"
        )
    if not len(run.data.validation):
        raise UsageError(
            "a search needs validation rows: set validation=FILE, or hold out rows with validation_size=200"
        )
    return run


def space_of(search: Candidate) -> Space:
    """Return the search space.

    Raises:
        UsageError: if there is nothing to search.
    """
    if search.space is not None:
        return search.space
    run, asked = prepared(search), search.asked

    def rank_of(targets: str) -> int | None:
        try:
            recipe, plan = plan_run(replace(asked, targets=targets), run.pretrained)
        except UsageError:  # no rank fits the limit
            return None
        # fewer layers are no choice of a rank: a trial that names its rank adapts all of them
        return plan.init_rank if plan.targets and recipe.layers == asked.layers else None

    return default_space(asked, run.recipe, rank_of, 1 if asked.method == "lora" else 2)


def defaults_of(search: Candidate) -> dict[str, Any]:
    """Return the values that a run has without a search, by key of the space."""
    run = prepared(search)
    values = run.recipe.by_key() | {"init_rank": run.plan.init_rank}
    return {key: values[key] for key in space_of(search).keys}


def recipe_with(search: Candidate, values: Mapping[str, Any]) -> Recipe:
    """Return the complete recipe of a candidate.

    Raises:
        UsageError: if the candidate does not fit the limit or is invalid.
    """
    return _planned(search, values).recipe


def _planned(search: Candidate, values: Mapping[str, Any]) -> Run:
    """Return the run of a candidate on the shared rows, without loading weights.

    Raises:
        UsageError: if the candidate does not fit the limit or is invalid.
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
    """Train a candidate if it fits the limit, and return the result.

    Args:
        search: settings of the search.
        values: values by key of the space.
        report: called after each evaluation except the last.
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
    """Return a metric by its name in a recipe."""
    return float(getattr(metrics, metric))


def best_recipe(search: Candidate, values: Mapping[str, Any], test: str | None) -> Recipe:
    """Return the recipe of the best trial, with the test rows, which the search did not use."""
    folder = Path(search.asked.output) / "winner"
    return replace(recipe_with(search, values), test=test, output=str(folder))
