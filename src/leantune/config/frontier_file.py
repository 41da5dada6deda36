"""Reads and writes ``frontier.json``: the measured accuracy of classifiers of many sizes.

The file is in the folder of a frontier and of a run that was chosen from it.
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
    """A classifier of one size; rates are fractions."""

    name: str
    parameters: int
    """Number of trainable parameters."""
    bytes: int
    """Size of the trained weights in fp32, without the encoder, in bytes."""
    accuracy: float
    """Accuracy on the held-out rows."""
    accuracy_interval: list[float]
    """95 % interval of the accuracy."""
    seconds: float
    """Estimated training seconds, from measured step times."""
    is_recipe: bool
    """Whether a leantune recipe can train the classifier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierRecord:
    """The classifiers of a frontier, from the smallest to the largest."""

    points: list[PointRecord]
    best: str
    """Name of the most accurate classifier."""
    smallest: str
    """Name of the smallest classifier with a recipe that is within a standard error of the best."""
    held_out: int
    """Number of rows that all classifiers were measured on."""
    seconds: float
    """Duration of all measurements together."""
    seconds_of_a_run: float
    """Estimated training seconds of the largest classifier with a recipe."""

    def named(self, name: str) -> PointRecord:
        """Return the classifier with this name."""
        return next(point for point in self.points if point.name == name)


def write_frontier(folder: Path, frontier: FrontierRecord) -> None:
    """Write the file into a folder atomically."""
    write_text(entry_of(folder, FILE), json.dumps(to_json(frontier), indent=1, ensure_ascii=False) + "\n")


def read_frontier(folder: Path) -> FrontierRecord | None:
    """Read the file in a folder; None if it does not exist.

    Raises:
        CheckpointError: the file is damaged.
        UnsafeFileError: the file is a link that leads out of the folder.
    """
    path = entry_of(folder, FILE)
    return read_json(path, FrontierRecord) if path.is_file() else None
