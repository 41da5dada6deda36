"""Reads and writes ``abstention.json`` in ``adapter/`` and ``merged/``: the probabilities below which to abstain."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from leantune.config.beside_weights import read_beside_weights
from leantune.system.atomic import write_text

FILE = "abstention.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """The smallest calibrated probability of an accepted prediction, and how it was chosen."""

    least: float
    """From 0 to 1."""
    rows: int
    """Number of predictions that the threshold was chosen on."""
    coverage: float
    """Share of these predictions that reach the threshold."""
    precision: float
    """Share of the predictions reaching the threshold that are right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstention:
    """Thresholds for a wanted precision.

    Raises:
        ValueError: a number is out of range.
    """

    precision: float
    """Wanted share of right predictions among the accepted ones."""
    confidence: float
    """Probability with which a threshold reaches the precision, over random draws of the rows it is chosen on."""
    temperature: float
    """Number by which logits are divided before the softmax."""
    source: str
    """The rows that the thresholds were chosen on."""
    overall: Threshold | None
    """Threshold for all classes; None if no threshold is known to reach the precision."""
    per_class: dict[str, Threshold] = field(default_factory=dict)
    """Threshold for each predicted class; the classifier always abstains from classes without one."""

    def __post_init__(self) -> None:
        if not (0 < self.precision < 1 and 0 < self.confidence < 1 and self.temperature > 0):
            raise ValueError("precision and confidence must be between 0 and 1, and temperature above 0")


def write_abstention(folder: Path, abstention: Abstention) -> None:
    """Write the file into a folder of weights; the record's checksums do not cover it."""
    write_text(folder / FILE, json.dumps(dataclasses.asdict(abstention), indent=1, ensure_ascii=False) + "\n")


def read_abstention(folder: Path) -> Abstention | None:
    """Read the file in a folder of weights, or in ``merged/`` below it; None if it does not exist.

    Raises:
        CheckpointError: the file is damaged.
        UnsafeFileError: the file is a link that leads out of the folder.
    """
    return read_beside_weights(folder, FILE, Abstention)
