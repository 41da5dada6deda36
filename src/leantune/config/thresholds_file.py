"""Reads and writes ``thresholds.json`` in ``adapter/`` and ``merged/`` of multi-label classifiers.

A text has a label if the label's probability is at least its threshold.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from leantune.config.beside_weights import read_beside_weights

FILE = "thresholds.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The smallest probability for each label, and how they were chosen.

    Raises:
        ValueError: a threshold is not between 0 and 1.
    """

    by_label: dict[str, float]
    rule: str
    """How the thresholds were chosen, in one sentence."""

    def __post_init__(self) -> None:
        if not all(0 <= each <= 1 for each in self.by_label.values()):
            raise ValueError("thresholds must be from 0 to 1")


def write_thresholds(folder: Path, thresholds: Thresholds) -> None:
    """Write the file into ``folder``, which other processes do not see yet."""
    text = json.dumps(dataclasses.asdict(thresholds), indent=1, ensure_ascii=False) + "\n"
    (folder / FILE).write_text(text, "utf-8")


def read_thresholds(folder: Path) -> Thresholds | None:
    """Read the file in a folder of weights, or in ``merged/`` below it; None if it does not exist.

    Raises:
        CheckpointError: the file is damaged.
        UnsafeFileError: the file is a link that leads out of the folder.
    """
    return read_beside_weights(folder, FILE, Thresholds)
