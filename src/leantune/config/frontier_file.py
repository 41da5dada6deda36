"""``frontier.json``: how accurate classifiers of many sizes are, in the folder of a frontier and of a run that follows
from it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from leantune.config.record.run import to_json
from leantune.system.atomic import write_text
from leantune.system.file_names import entry_of
from leantune.system.json_files import read_json

FILE = "frontier.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRecord:
    """A classifier of some size; rates are fractions."""

    name: str
    parameters: int
    """Trainable parameters."""
    bytes: int
    """Size of the trained weights in fp32, without the encoder."""
    accuracy: float
    """On the held-out rows."""
    accuracy_interval: list[float]
    """95 %."""
    seconds: float
    """Estimated training seconds, from measured step times."""
    is_recipe: bool
    """Whether a recipe of leantune trains it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierRecord:
    """Classifiers from the smallest to the largest."""

    points: list[PointRecord]
    best: str
    """Name of the most accurate."""
    smallest: str
    """Name of the smallest with a recipe that is within a standard error of the best."""
    held_out: int
    """Rows that all were measured on."""
    seconds: float
    """Duration of all measurements together."""
    seconds_of_a_run: float
    """Estimated training seconds of the largest classifier with a recipe."""

    def named(self, name: str) -> PointRecord:
        """The classifier of this name."""
        return next(point for point in self.points if point.name == name)


def write_frontier(folder: Path, frontier: FrontierRecord) -> None:
    """Put the file into a folder, whole or not at all."""
    write_text(entry_of(folder, FILE), json.dumps(to_json(frontier), indent=1, ensure_ascii=False) + "\n")


def read_frontier(folder: Path) -> FrontierRecord | None:
    """The file in a folder; None if there is none.

    Raises:
        CheckpointError: if it is damaged.
        UnsafeFileError: if it is a link that leads out of the folder.
    """
    path = entry_of(folder, FILE)
    return read_json(path, FrontierRecord) if path.is_file() else None
