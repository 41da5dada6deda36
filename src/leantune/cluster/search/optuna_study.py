"""The trials of a search in Optuna: TPE draws candidates, successive halving ends those that fall behind.

All that is known of them is in one file of the search's folder, so that processes share it, and a search whose process
was killed is gone on with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leantune.cluster.search.settings import (
    FIRST_RUNG,
    LOG,
    MOST_MISSES,
    REDUCTION,
    Search,
    Tried,
    is_over,
    seed_of,
)
from leantune.cluster.search.trials import Candidate, Trial, run_trial, space_of
from leantune.errors import UsageError

VALUES, RESULT = "values", "result"
"""Attributes of a trial: what it trains with, which Optuna has unrounded, and our own row of it."""


def import_optuna() -> Any:
    """The library, which says nothing of its own.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UsageError("search needs optuna: pip install 'leantune[optuna]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@dataclass(frozen=True, slots=True)
class Study:
    """The trials of one search."""

    study: Any
    search: Candidate

    @classmethod
    def opened(cls, folder: Path, search: Candidate, *, metric: str) -> Study:
        """That of a folder, made if it is not there."""
        optuna = import_optuna()
        storages = optuna.storages
        backend = storages.journal.JournalFileBackend(str(folder / LOG))
        study = optuna.create_study(
            study_name="search",
            storage=storages.JournalStorage(backend),
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=FIRST_RUNG, reduction_factor=REDUCTION
            ),
            direction="minimize" if metric == "log_loss" else "maximize",
            load_if_exists=True,
        )
        return cls(study, search)

    def begin(self, defaults: Mapping[str, Any]) -> None:
        """Before the first trial of this command: a trial that an earlier one left unfinished is tried again; the
        first trial of all is what the recipe would be without a search, if that is in the space.
        """
        states = import_optuna().trial.TrialState
        for left in self.study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            self.study.tell(left.number, state=states.FAIL)
            if left.params:
                self.study.enqueue_trial(left.params)
        if not self.study.trials and space_of(self.search).holds(defaults):
            self.study.enqueue_trial(dict(defaults))

    def tried(self) -> list[Tried]:
        """Every trial that has ended by itself."""
        return [
            Tried(each.number, each.user_attrs[VALUES], Trial(**each.user_attrs[RESULT]))
            for each in self.study.get_trials(deepcopy=False)
            if RESULT in each.user_attrs
        ]

    def run_one(self, seed: int) -> tuple[int, Trial]:
        """Draw a candidate and train it, unless it does not fit."""
        optuna = import_optuna()
        states = optuna.trial.TrialState
        drawn = len(self.study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED)))
        self.study.sampler = optuna.samplers.TPESampler(seed=seed_of(seed, drawn))
        asked = self.study.ask()
        values = space_of(self.search).suggest(asked)
        asked.set_user_attr(VALUES, values)

        def report(used: int, value: float) -> bool:
            asked.report(value, used)
            return not asked.should_prune()

        result = run_trial(self.search, values, report)
        asked.set_user_attr(RESULT, asdict(result))
        if result.status == "finished":
            self.study.tell(asked, result.value)
        else:
            self.study.tell(asked, state=states.PRUNED)
        return asked.number, result


def run_slot(settings: Search) -> int | None:
    """Train one more candidate that fits; its number, or None if no trial begins any more.

    Raises:
        UsageError: if none of very many fits.
    """
    study = Study.opened(settings.folder, settings.candidate, metric=settings.recipe.selection_metric)
    for _ in range(MOST_MISSES):
        if is_over(settings):
            return None
        number, result = study.run_one(settings.recipe.seed)
        if result.status != "too large":
            return number
    raise UsageError(
        f"{MOST_MISSES} candidates in a row do not fit ({result.error}); narrow --space or raise the limit"
    )
