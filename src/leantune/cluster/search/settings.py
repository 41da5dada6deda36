"""What a search is: its recipe, its space, how long it goes on, and where it left off."""

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
"""Of the folder of a search: what must stay the same, and what Optuna knows of the trials."""
FIRST_RUNG, REDUCTION = PERMILLE // 4, 2
"""The better half of those that came as far goes on after a quarter of its steps, and again after half of them."""
MOST_MISSES = 1000
"""Candidates in a row that do not fit the limit, after which the space is taken to have none that does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search(SearchOptions):
    """What is searched, how long and where."""

    recipe: Recipe
    """Its output is the folder of the search."""
    space: Space | None
    retries: int = 2
    started: float = field(default_factory=time.time)
    """Seconds since 1970."""

    @property
    def deadline(self) -> float | None:
        """Seconds of `time.time`, after which no trial begins."""
        return None if self.minutes is None else self.started + 60 * self.minutes

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.recipe.output).expanduser()

    @property
    def candidate(self) -> Candidate:
        """What every trial needs."""
        return Candidate(replace(self.recipe, test=None), self.space)


@dataclass(frozen=True, slots=True)
class Tried:
    """A row of the table of trials."""

    number: int
    values: dict[str, Any]
    trial: Trial


Progress = Generator[tuple[list[Tried], Tried | None], None, None]
"""After each trial all that were tried, and the newest one."""


def check_folder(settings: Search) -> None:
    """Make the folder that of this search, or find that it is.

    Raises:
        UsageError: if it holds another search, one that is not to be resumed, or none that could be.
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
        raise UsageError(f"cannot resume: the search began with something else: {'; '.join(differences)}")


def _about(settings: Search) -> dict[str, Any]:
    """What must not change between two processes of a search."""
    values = settings.recipe.by_key()
    keys = {key: value for key, value in values.items() if key not in ("test", "output")}
    space = None if settings.space is None else settings.space.to_json()
    where = "Optuna" if settings.cluster is None else "Ray Tune"
    about: dict[str, Any] = json.loads(json.dumps(keys | {"space": space, "by": where}))
    return about


def seed_of(seed: int, number: int) -> int:
    """The seed of one draw, so that a search that is resumed draws what an undisturbed one would."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def is_over(settings: Search) -> bool:
    """Whether no trial begins any more."""
    return settings.deadline is not None and time.time() >= settings.deadline
