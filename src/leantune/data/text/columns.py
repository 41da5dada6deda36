"""Chooses the columns to read from the columns that a file has."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from leantune.config.classifier_file import InferenceSettings
from leantune.config.problem_type import MULTI_LABEL
from leantune.errors import DataError, UsageError
from leantune.system.messages import listed, nearest_name, shown

LabelUse = Literal["required", "ignore"]

TEXT, LABELS = "text", ("label", "target")
"""Default column names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The names of the columns to read.

    Args:
        text: column of the text; None means the column ``text``.
        text_pair: column of the second text of a pair; None means no pairs.
        label: column of the label; None means the column ``label``, else ``target``.
        id: column of the row's id; None means the 0-based row number.
        splits_labels: whether a text cell may contain several labels, as in ``oil|grain``; a list always may. This
            does not change the tokens, so it is not part of the `repr`, which goes into the cache key.
    """

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    id: str | None = None
    splits_labels: bool = field(default=False, repr=False)
    skips_blank: bool = field(default=False, repr=False)
    """Whether rows with a blank text are left out; otherwise they stop what needs their text."""

    @property
    def text_name(self) -> str:
        """The name of the text column."""
        return self.text or TEXT

    @property
    def label_name(self) -> str:
        """The name of the label column for readers that choose it themselves."""
        return self.label or LABELS[0]

    def named(self) -> tuple[str, ...]:
        """Return the text column and every other named column, without repeats."""
        names = (self.text_name, self.text_pair, self.label, self.id)
        return tuple(dict.fromkeys(name for name in names if name is not None))


def find_columns(
    found: tuple[str, ...],
    wanted: Columns,
    labels: LabelUse,
    name: str,
    *,
    paths: Sequence[str] = (),
    sheets: Callable[[], Mapping[str, tuple[str, ...]]] = dict,
) -> Columns:
    """Return the columns to read after checking that they exist; ``label`` is None if labels are not read.

    Args:
        found: the columns of the file.
        wanted: the requested columns.
        labels: whether a label is required.
        name: the file, for messages.
        paths: columns inside the objects of a JSON file, for messages.
        sheets: reads the columns of a workbook's other sheets, for messages.

    Raises:
        DataError: a requested column does not exist.
    """

    def missing(column: str, flag: str) -> DataError:
        return _missing(column, found, name, flag, paths, sheets())

    for flag, column in (
        ("--text-column", wanted.text_name),
        ("--text-pair-column", wanted.text_pair),
        ("--id-column", wanted.id),
    ):
        if column is not None and column not in found:
            raise missing(column, flag)
    label = None
    if labels == "required":
        candidates = LABELS if wanted.label is None else (wanted.label,)
        label = next((candidate for candidate in candidates if candidate in found), None)
        if label is None:
            raise missing(candidates[0], "--label-column")
    return replace(wanted, text=wanted.text_name, label=label)


def _missing(
    column: str,
    found: tuple[str, ...],
    name: str,
    flag: str,
    paths: Sequence[str],
    sheets: Mapping[str, tuple[str, ...]],
) -> DataError:
    sheet = next((each for each, columns in sheets.items() if column in columns), None)
    if sheet is not None:
        return DataError(
            f"no column {shown(column)}; found {listed(found)}. Sheet {shown(sheet)} has it, but only the first sheet "
            "is read: make it the first sheet, or save it as CSV",
            path=name,
        )
    inside = sorted(paths, key=lambda path: path.rpartition(".")[2] != column)
    others = [each for each in found if each not in (TEXT, *LABELS)]
    example = next(iter(inside[:1]), None) or nearest_name(column, found) or next(iter(others), "NAME")
    return DataError(
        f"no column {shown(column)}; found {listed([*found, *inside])}: "
        f"name the column to read, as {flag} {shlex.quote(example[:60])}, or rename it in the file",
        path=name,
    )


def columns_for(
    trained: InferenceSettings,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    skip_blank_rows: bool = False,
) -> Columns:
    """Return the columns to read for a trained classifier: the given names, else the names used in training.

    Raises:
        UsageError: a second text is given, but the classifier was trained on single texts.
    """
    if text_pair_column and trained.takes_pairs is False:
        raise UsageError(
            "--text-pair-column: the classifier was trained on single texts, not on pairs; leave it out"
        )
    return Columns(
        text=text_column or trained.text_column,
        text_pair=text_pair_column or trained.text_pair_column,
        label=label_column or trained.label_column,
        id=id_column,
        splits_labels=trained.problem_type == MULTI_LABEL,
        skips_blank=skip_blank_rows or trained.skips_blank,
    )
