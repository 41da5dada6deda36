"""``leantune.json`` in ``adapter/`` and ``merged/``: what a classifier needs to be used, and what neither PEFT's files
nor those of transformers hold.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leantune.config.problem_type import MULTI_LABEL
from leantune.config.recipe import Recipe
from leantune.system.file_names import entry_of
from leantune.system.json_files import read_json

FILE = "leantune.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceSettings:
    """How rows are read and classified, where the user does not say."""

    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    problem_type: str | None = None
    """``multi_label_classification`` where a text may have several labels."""
    takes_pairs: bool | None = None
    """Whether it was trained on pairs of texts; None: nobody said."""
    batch_size: int = 64
    precision: str = "auto"

    @classmethod
    def of(cls, recipe: Recipe) -> InferenceSettings:
        """The settings of a run."""
        return cls(
            text_column=recipe.text_column,
            text_pair_column=recipe.text_pair_column,
            label_column=recipe.label_column,
            problem_type=recipe.problem_type,
            takes_pairs=recipe.text_pair_column is not None,
            batch_size=recipe.eval_batch_size,
            precision=recipe.precision,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierFile:
    """What the file holds.

    Raises:
        ValueError: fewer than two labels, or one twice.
    """

    labels: list[str]
    """Names of the classes in the order of their ids."""
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    problem_type: str | None = None
    """As in `InferenceSettings`; left out of the file where it is None."""

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise ValueError("labels must be two or more, each once")

    @property
    def is_multi_label(self) -> bool:
        """Whether a text may have several labels."""
        return self.problem_type == MULTI_LABEL

    @property
    def settings(self) -> InferenceSettings:
        """How rows are read and classified where the folder is used without its run."""
        return InferenceSettings(
            text_column=self.text_column,
            text_pair_column=self.text_pair_column,
            label_column=self.label_column,
            problem_type=self.problem_type,
            takes_pairs=self.text_pair_column is not None,
        )


def write_classifier_file(folder: Path, recipe: Recipe, labels: Sequence[str]) -> None:
    """Write the file into ``folder``, which is not there for others yet."""
    content = ClassifierFile(
        labels=list(labels),
        text_column=recipe.text_column,
        text_pair_column=recipe.text_pair_column,
        label_column=recipe.label_column,
        problem_type=MULTI_LABEL if recipe.problem_type == MULTI_LABEL else None,
    )
    values = dataclasses.asdict(content)
    if content.problem_type is None:
        del values["problem_type"]
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    (folder / FILE).write_text(text, "utf-8")


def read_classifier_file(folder: Path) -> ClassifierFile | None:
    """The file in ``folder``; None if there is none.

    Raises:
        CheckpointError: if it is damaged, or its labels are not two or more, each once.
        UnsafeFileError: if it is a link that leads out of the folder.
    """
    path = entry_of(folder, FILE)
    return read_json(path, ClassifierFile) if path.is_file() else None
