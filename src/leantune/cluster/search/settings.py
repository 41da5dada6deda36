"""Settings of a search, and the check of its folder."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from leantune.cluster.search.options import SearchOptions
from leantune.cluster.search.space import Space
from leantune.cluster.search.trials import PERMILLE, Candidate, Trial
from leantune.config import Recipe
from leantune.errors import UsageError
from leantune.system.atomic import write_text

ABOUT, LOG = "search.json", "trials.log"
"""Files in the search folder: settings that must not change, and Optuna's journal."""
FIRST_RUNG, REDUCTION = PERMILLE // 4, 2
"""Successive halving: after a quarter and after half of its steps, only the better half of trials continues."""
MOST_MISSES = 1000
"""Number of candidates in a row that do not fit the limit after which the search fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search(SearchOptions):
    """All settings of a search."""

    recipe: Recipe
    """Recipe of the search, whose output is the search folder."""
    space: Space | None
    retries: int = 2
    started: float = field(default_factory=time.time)
    """Start time in seconds since 1970."""

    @property
    def deadline(self) -> float | None:
        """Time in seconds since 1970 after which no trial starts; None without a limit."""
        return None if self.minutes is None else self.started + 60 * self.minutes

    @property
    def folder(self) -> Path:
        """The search folder."""
        return Path(self.recipe.output).expanduser()

    @property
    def candidate(self) -> Candidate:
        """Settings that every trial needs."""
        return Candidate(replace(self.recipe, test=None), self.space)


@dataclass(frozen=True, slots=True)
class Tried:
    """A row of the table of trials."""

    number: int
    values: dict[str, Any]
    trial: Trial


Progress = Generator[tuple[list[Tried], Tried | None], None, None]
"""Generator that yields all trials and the newest one after each trial."""


def check_folder(settings: Search) -> None:
    """Write the settings into a new search folder, or check that an existing search can be resumed.

    Raises:
        UsageError: if the folder contains another search, a search that is not resumed, or no search to resume.
    """
    path = settings.folder / ABOUT
    about = _about(settings)
    if not path.exists():
        if settings.resume:
            raise UsageError(f"{settings.folder}: no search to resume (no {ABOUT})")
        write_text(path, json.dumps(about, indent=1) + "\n")
        return
    if not settings.resume:
        raise UsageError(
            f"output {settings.folder}: already holds a search; choose another output, or add --resume to continue it"
        )
    before = json.loads(path.read_text("utf-8"))
    differences = [
        f"{key}: was {before[key]}, is {value}" for key, value in about.items() if before.get(key) != value
    ]
    if differences:
        raise UsageError(
            f"cannot resume: the search was started with other settings: {'; '.join(differences)}"
        )


def _about(settings: Search) -> dict[str, Any]:
    """Return the settings that must not change when a search is resumed."""
    values = settings.recipe.by_key()
    keys = {key: value for key, value in values.items() if key not in ("test", "output")}
    space = None if settings.space is None else settings.space.to_json()
    where = "Optuna" if settings.cluster is None else "Ray Tune"
    about: dict[str, Any] = json.loads(json.dumps(keys | {"space": space, "by": where}))
    return about


def seed_of(seed: int, number: int) -> int:
    """Return the seed of one draw, which makes a resumed search draw the same candidates as an uninterrupted one."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def is_over(settings: Search) -> bool:
    """Return whether the time limit is reached."""
    return settings.deadline is not None and time.time() >= settings.deadline
