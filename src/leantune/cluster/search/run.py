"""Search for the best recipe within the limit: Optuna in processes on this machine, Ray Tune on a cluster."""

from __future__ import annotations

import csv
import io
import signal
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console

from leantune.cluster.many.train_job import prepare_process, train_or_go_on
from leantune.cluster.processes import in_processes
from leantune.cluster.search.optuna_study import Study, run_slot
from leantune.cluster.search.settings import Progress, Search, Tried, check_folder
from leantune.cluster.search.trials import Trial, best_recipe, defaults_of, space_of
from leantune.cluster.search.tune_search import tuned
from leantune.config import Recipe, load_recipe
from leantune.config.record.run import RECORD, BegunRecord, read_record
from leantune.errors import DistributedError, Interrupted, UsageError
from leantune.system.atomic import write_text
from leantune.system.lock import run_lock
from leantune.training.resume import recipe_differences

TRIALS, BEST = "trials.csv", "best.yaml"
"""Files in the search folder: the table of trials and the best recipe."""

OnTrial = Callable[[Tried], None]


def search(settings: Search, on_trial: OnTrial) -> list[Tried]:
    """Run trials, and write ``trials.csv`` and ``best.yaml`` after each.

    Returns:
        All trials in the order of their numbers, including those before a resumption.

    Raises:
        UsageError: if the folder contains a search that is not resumed or has another recipe, there is nothing to
            search, or a library is not installed.
        Interrupted: after a signal; finished trials are kept.
    """
    check_recipe(settings.recipe)
    with run_lock(settings.folder):
        space_of(settings.candidate)  # reads and checks the rows
        check_folder(settings)
        source = _locally if settings.cluster is None else tuned
        tried: list[Tried] = []
        try:
            with closing(source(settings)) as found:
                for tried, newest in found:
                    _write(settings, tried)
                    if newest is not None:
                        on_trial(newest)
        except (Interrupted, KeyboardInterrupt) as stopped:
            number = stopped.exit_code - 128 if isinstance(stopped, Interrupted) else int(signal.SIGINT)
            raise Interrupted(
                f"stopped by {signal.Signals(number).name} after {_trained(tried)} trials; run the same command with "
                "--resume to continue",
                signal_number=number,
            ) from None
        return tried


def check_recipe(recipe: Recipe) -> None:
    """Check that the recipe sets no keys that a search does not support.

    Raises:
        UsageError: if it does.
    """
    for key, expected in (("unlabelled", None), ("effort", "fast")):
        if getattr(recipe, key) != expected:
            raise UsageError(
                f"{key}={getattr(recipe, key)}: not supported in a search; remove it, and set it when you train the "
                "winner"
            )


def best_of(tried: Sequence[Tried], metric: str) -> Tried | None:
    """Return the finished trial with the best value, the first if values are equal, or None without finished trials."""
    sign = -1 if metric == "log_loss" else 1
    finished = [(each, each.trial.value) for each in tried if each.trial.status == "finished"]
    scored = [(sign * value, -each.number, each) for each, value in finished if value is not None]
    return max(scored, key=lambda each: each[:2])[2] if scored else None


def train_winner(settings: Search, console: Console) -> Path:
    """Train or resume the best recipe of a search. The run of an earlier winner is replaced.

    Returns:
        The run folder.

    Raises:
        LeantuneError: see `leantune.training.run.run_training`.
    """
    recipe = load_recipe(str(settings.folder / BEST), {})
    folder = Path(recipe.output).expanduser()
    earlier = read_record(folder, BegunRecord) if (folder / RECORD).exists() else None
    replaces = earlier.run_id if earlier is not None and recipe_differences(recipe, earlier) else None
    return train_or_go_on(recipe, replaces=replaces, console=console)


def _locally(settings: Search) -> Progress:
    study = Study.opened(settings.folder, settings.candidate, metric=settings.recipe.selection_metric)
    study.begin(defaults_of(settings.candidate))
    tried = study.tried()
    yield tried, None
    slots = [settings] * max(0, settings.trials - _trained(tried))
    workers = settings.workers or 1
    if workers == 1:
        for slot in slots:
            number = run_slot(slot)
            if number is None:
                return
            tried = study.tried()
            yield tried, next(each for each in tried if each.number == number)
        return
    ends = in_processes(
        run_slot,
        slots,
        workers=min(workers, max(1, len(slots))),
        retries=settings.retries,
        prepare=prepare_process,
        stop_signal=signal.SIGTERM,
    )
    with closing(ends):
        for ended in ends:
            if isinstance(ended.error, BrokenProcessPool):
                raise DistributedError(
                    f"the process of a trial died {ended.attempts} times: check whether memory is sufficient for "
                    f"--workers {workers}, then continue with --resume"
                )
            if ended.error is not None:
                raise ended.error
            tried = study.tried()
            yield tried, next((each for each in tried if each.number == ended.result), None)


def _trained(tried: Sequence[Tried]) -> int:
    return sum(each.trial.status in ("finished", "stopped", "diverged") for each in tried)


def _write(settings: Search, tried: Sequence[Tried]) -> None:
    keys = space_of(settings.candidate).keys
    names = [field.name for field in fields(Trial)]
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["number", *keys, *names])
    for each in tried:
        cells = asdict(each.trial)
        shown = [_shown(each.values.get(key)) for key in keys] + [_shown(cells[name]) for name in names]
        writer.writerow([each.number, *shown])
    write_text(settings.folder / TRIALS, content.getvalue())
    best = best_of(tried, settings.recipe.selection_metric)
    if best is not None:
        recipe = best_recipe(settings.candidate, best.values, settings.recipe.test)
        write_text(settings.folder / BEST, recipe.to_yaml())


def _shown(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
