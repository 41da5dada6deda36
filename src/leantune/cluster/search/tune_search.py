"""The trials of a search in Ray Tune, with candidates from Optuna and asynchronous successive halving."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from leantune.cluster.connection import connected, import_ray
from leantune.cluster.ray_tasks import check_cores
from leantune.cluster.search.optuna_study import import_optuna
from leantune.cluster.search.settings import FIRST_RUNG, REDUCTION, Progress, Search, Tried
from leantune.cluster.search.space import Space
from leantune.cluster.search.trials import PERMILLE, Candidate, Trial, defaults_of, run_trial, space_of

NAME = "ray"
"""Subfolder of the search folder for Ray's own files."""
USED, VALUE = "used_permille", "value"
WORST_LOSS = 1e6
"""Log loss reported for a candidate without a result."""


def tuned(settings: Search) -> Progress:
    """Run the search, and yield all trials at its end.

    Raises:
        UsageError: if a library is not installed.
        DistributedError: if the cluster cannot be reached.
    """
    import_optuna()
    space = space_of(settings.candidate)
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output ignores verbose=0
    os.environ.setdefault(
        "TUNE_DISABLE_SIGINT_HANDLER", "1"
    )  # it would make an interrupted search look finished
    import_ray()
    assert settings.cluster is not None
    with connected(settings.cluster) as nodes:
        check_cores(nodes, settings.cores_per_job)
        tuner = _tuner(settings, space)
        results = tuner.fit()
        tried = [_tried(number, result, space) for number, result in enumerate(results)]
    yield tried, None


def _tuner(settings: Search, space: Space) -> Any:
    from ray import tune

    trainable = tune.with_resources(
        partial(_train, search=settings.candidate, directory=os.getcwd(), threads=settings.cores_per_job),
        {"cpu": settings.cores_per_job},
    )
    path = settings.folder.resolve() / NAME
    if settings.resume and tune.Tuner.can_restore(str(path)):
        return tune.Tuner.restore(str(path), trainable, resume_unfinished=True, restart_errored=True)
    mode = "min" if settings.recipe.selection_metric == "log_loss" else "max"
    left = None if settings.deadline is None else max(1.0, settings.deadline - time.time())
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric=VALUE,
            mode=mode,
            num_samples=settings.trials,
            max_concurrent_trials=settings.workers,
            time_budget_s=left,
            search_alg=_searcher(settings, space),
            scheduler=tune.schedulers.ASHAScheduler(
                time_attr=USED, max_t=PERMILLE, grace_period=FIRST_RUNG, reduction_factor=REDUCTION
            ),
        ),
        run_config=tune.RunConfig(
            name=NAME,
            storage_path=str(path.parent),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=settings.retries),
        ),
    )


def _searcher(settings: Search, space: Space) -> Any:
    from ray.tune.search.optuna import OptunaSearch

    defaults = defaults_of(settings.candidate)
    return OptunaSearch(
        partial(_suggest, space=space),
        metric=VALUE,
        mode="min" if settings.recipe.selection_metric == "log_loss" else "max",
        points_to_evaluate=[defaults] if space.holds(defaults) else None,
        seed=settings.recipe.seed,
    )


def _suggest(trial: Any, space: Space) -> None:
    """Draw values. OptunaSearch records the draws as the config of a trial."""
    space.suggest(trial)


def _train(config: Mapping[str, Any], search: Candidate, directory: str, threads: int) -> None:
    """Run one trial in a Ray actor."""
    import torch
    from ray import tune

    os.chdir(directory)
    torch.set_num_threads(threads)
    values = space_of(search).written(config)

    def report(used: int, value: float) -> bool:
        tune.report({USED: used, VALUE: value})  # does not return if the scheduler stops the trial
        return True

    result = run_trial(search, values, report)
    value = result.value
    if value is None:  # a bad but finite value, because the scheduler computes percentiles
        value = WORST_LOSS if search.asked.selection_metric == "log_loss" else -1.0
    tune.report(
        {USED: PERMILLE, VALUE: value, **{f"trial_{key}": each for key, each in asdict(result).items()}}
    )


def _tried(number: int, result: Any, space: Space) -> Tried:
    """Return the row of a trial from its last report."""
    metrics = result.metrics or {}
    given: dict[str, Any] = {each.name: metrics.get(f"trial_{each.name}") for each in fields(Trial)}
    if given["status"] is not None:
        trial = Trial(**given)
    elif result.error is not None:
        trial = Trial(status="interrupted", error=f"the process died: {result.error}")
    else:
        trial = Trial(
            status="stopped",
            value=metrics.get(VALUE),
            used=metrics.get(USED, 0) / PERMILLE,
            seconds=metrics.get("time_total_s", 0.0),
        )
    return Tried(number, space.written(result.config or {}), trial)
