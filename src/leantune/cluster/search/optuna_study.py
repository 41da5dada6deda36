"""The trials of a search in Optuna: TPE proposes candidates, and successive halving stops weak ones early.

All state is in one file in the search folder, so that processes can share it and a killed search can be resumed.
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
"""User attributes of a trial: its rounded values, and the fields of `Trial`."""


def import_optuna() -> Any:
    """Import Optuna and turn off its log messages.

    Raises:
        UsageError: if Optuna is not installed.
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
        """Open the study in a folder, and create it if it does not exist."""
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
        """Queue trials before the first one of this command.

        Unfinished trials of an earlier command are repeated. A new search starts with the values that the recipe has
        without a search, if they are in the space.
        """
        states = import_optuna().trial.TrialState
        for left in self.study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            self.study.tell(left.number, state=states.FAIL)
            if left.params:
                self.study.enqueue_trial(left.params)
        if not self.study.trials and space_of(self.search).holds(defaults):
            self.study.enqueue_trial(dict(defaults))

    def tried(self) -> list[Tried]:
        """Return all trials that ended without being interrupted."""
        return [
            Tried(each.number, each.user_attrs[VALUES], Trial(**each.user_attrs[RESULT]))
            for each in self.study.get_trials(deepcopy=False)
            if RESULT in each.user_attrs
        ]

    def run_one(self, seed: int) -> tuple[int, Trial]:
        """Draw a candidate, train it if it fits the limit, and return its number and result."""
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
    """Train one candidate that fits the limit, and return its number, or None if the time limit is reached.

    Raises:
        UsageError: if MOST_MISSES candidates in a row do not fit.
    """
    study = Study.opened(settings.folder, settings.candidate, metric=settings.recipe.selection_metric)
    for _ in range(MOST_MISSES):
        if is_over(settings):
            return None
        number, result = study.run_one(settings.recipe.seed)
        if result.status != "too large":
            return number
    raise UsageError(
        f"{MOST_MISSES} candidates in a row do not fit the parameter limit ({result.error}); narrow --space, or raise "
        "max_trainable_params"
    )
