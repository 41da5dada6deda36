"""``abstention.json`` in ``adapter/`` and ``merged/``: from which probability on a prediction is to be trusted."""

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
    """The least calibrated probability that a prediction must have, and how it was chosen."""

    least: float
    """From 0 to 1."""
    rows: int
    """Predictions that it was chosen on."""
    coverage: float
    """Share of them that have it."""
    precision: float
    """Share of those that are right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstention:
    """Thresholds for a wanted precision.

    Raises:
        ValueError: if a number is out of its range.
    """

    precision: float
    """Wanted share of right predictions among those that are given."""
    confidence: float
    """Probability with which a threshold keeps it, over the rows that it is chosen on."""
    temperature: float
    """Logits are divided by it before the softmax."""
    source: str
    """The rows that it was chosen on."""
    overall: Threshold | None
    """None: no threshold is known to keep the precision."""
    per_class: dict[str, Threshold] = field(default_factory=dict)
    """By the predicted class; those without one always abstain."""

    def __post_init__(self) -> None:
        if not (0 < self.precision < 1 and 0 < self.confidence < 1 and self.temperature > 0):
            raise ValueError("precision and confidence must be between 0 and 1, and temperature above 0")


def write_abstention(folder: Path, abstention: Abstention) -> None:
    """Put the file into a folder of weights; the checksums in the record are of the weights' own files."""
    write_text(folder / FILE, json.dumps(dataclasses.asdict(abstention), indent=1, ensure_ascii=False) + "\n")


def read_abstention(folder: Path) -> Abstention | None:
    """The file in a folder of weights, or in ``merged/`` below it; None if there is none.

    Raises:
        CheckpointError: if it is damaged.
        UnsafeFileError: if it is a link that leads out of the folder.
    """
    return read_beside_weights(folder, FILE, Abstention)
