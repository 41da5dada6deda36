"""Reads and writes ``leantune.json`` in ``adapter/`` and ``merged/``.

The file contains what a classifier needs for use and the files of PEFT and transformers lack.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from leantune.config.problem_type import MULTI_LABEL, LabelType, are_of_type
from leantune.config.recipe import Recipe
from leantune.config.record.run import Labels
from leantune.system.file_names import entry_of
from leantune.system.json_files import read_json

FILE = "leantune.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceSettings:
    """How rows are read and classified unless the user gives other settings."""

    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    problem_type: str | None = None
    """``multi_label_classification`` if a text may have several labels."""
    takes_pairs: bool | None = None
    """Whether the classifier was trained on pairs of texts; None if unknown."""
    skips_blank: bool = False
    """Whether rows with a blank text are left out."""
    batch_size: int = 64
    precision: str = "auto"

    @classmethod
    def of(cls, recipe: Recipe) -> InferenceSettings:
        """Return the settings of a run."""
        return cls(
            text_column=recipe.text_column,
            text_pair_column=recipe.text_pair_column,
            label_column=recipe.label_column,
            problem_type=recipe.problem_type,
            takes_pairs=recipe.text_pair_column is not None,
            skips_blank=recipe.blank_rows == "skip",
            batch_size=recipe.eval_batch_size,
            precision=recipe.precision,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierFile:
    """The content of ``leantune.json``.

    Raises:
        ValueError: fewer than two labels, a repeated one, or one that is not of the type.
    """

    labels: list[str]
    """Names of the classes in the order of their ids."""
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    problem_type: str | None = None
    """As in `InferenceSettings`; omitted from the file if None."""
    label_type: LabelType | None = None
    """Type of the training labels if they were not texts; omitted from the file if None."""

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise ValueError("labels must be two or more, each once")
        if not are_of_type(self.labels, self.label_type):
            raise ValueError(f"labels must be of type {self.label_type}")

    @property
    def is_multi_label(self) -> bool:
        """Whether a text may have several labels."""
        return self.problem_type == MULTI_LABEL

    @property
    def settings(self) -> InferenceSettings:
        """The settings for use of the folder without its run."""
        return InferenceSettings(
            text_column=self.text_column,
            text_pair_column=self.text_pair_column,
            label_column=self.label_column,
            problem_type=self.problem_type,
            takes_pairs=self.text_pair_column is not None,
        )


def write_classifier_file(folder: Path, recipe: Recipe, labels: Labels) -> None:
    """Write the file into ``folder``, which other processes do not see yet."""
    content = ClassifierFile(
        labels=labels.names,
        text_column=recipe.text_column,
        text_pair_column=recipe.text_pair_column,
        label_column=recipe.label_column,
        problem_type=MULTI_LABEL if recipe.problem_type == MULTI_LABEL else None,
        label_type=labels.label_type,
    )
    values = dataclasses.asdict(content)
    for omitted in ("problem_type", "label_type"):
        if values[omitted] is None:
            del values[omitted]
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    (folder / FILE).write_text(text, "utf-8")


def read_classifier_file(folder: Path) -> ClassifierFile | None:
    """Read the file in ``folder``; None if it does not exist.

    Raises:
        CheckpointError: the file is damaged, or has fewer than two labels or a repeated one.
        UnsafeFileError: the file is a link that leads out of the folder.
    """
    path = entry_of(folder, FILE)
    return read_json(path, ClassifierFile) if path.is_file() else None
