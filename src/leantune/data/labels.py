"""Class names and their ids.

The class order is saved with the model and does not depend on the order of the rows.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from leantune.config.classifier_file import ClassifierFile
from leantune.config.problem_type import BINNED, MULTI_LABEL, LabelType, are_of_type
from leantune.config.record.run import Labels
from leantune.data.label_column import Label
from leantune.data.text.table import Row, place_of
from leantune.errors import CheckpointError, DataError
from leantune.system.messages import listed, nearest, place_name, shown

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)
MOST_NUMBERS = 20
"""Largest number of distinct labels for which fractional numbers, such as versions, are accepted as class names."""


@dataclass(frozen=True, slots=True)
class LabelMap:
    """Class names in the order of their ids: ``names[id]``.

    Args:
        names: the class names.
        is_multi_label: whether a row may have any number of labels.
        label_type: the type of the labels that the names stand for; None: texts.

    Raises:
        ValueError: fewer than two names, a repeated name, or a name that is not of the type.
    """

    names: tuple[str, ...]
    is_multi_label: bool = False
    label_type: LabelType | None = None

    def __post_init__(self) -> None:
        if len(self.names) < 2 or len(set(self.names)) < len(self.names):
            raise ValueError(f"names must be two or more, each once. Got {listed(self.names)} instead.")
        if not are_of_type(self.names, self.label_type):
            raise ValueError(f"names must be of type {self.label_type}. Got {listed(self.names)} instead.")

    @classmethod
    def of(
        cls,
        values: Sequence[Label],
        *,
        order: Sequence[str] | None = None,
        source_name: str | None = None,
        label_type: LabelType | None = None,
    ) -> LabelMap:
        """Build the label map of a training set.

        Args:
            values: canonical label texts, one per row, or tuples of them where rows have several labels.
            order: the names in the order of their ids, from a ``datasets.ClassLabel``. None sorts the names:
                as numbers if all are whole numbers, else as text.
            source_name: the file, for messages.
            label_type: the type of the labels in the source; None: texts.

        Raises:
            DataError: fewer than two different labels, a label without visible characters, a label missing from
                ``order``, or numbers that look like measurements.
        """
        is_multi_label = any(isinstance(value, tuple) for value in values)
        found = {name for value in set(values) for name in (value if isinstance(value, tuple) else (value,))}
        _refuse_measurements(found, source_name)
        if len(found) < 2:
            raise DataError(
                f"{len(found)} class in the labels ({listed(found)}), expected two or more: "
                "check the label column",
                path=source_name,
            )
        if order is None:
            _refuse_invisible(found, source_name)
            names = sorted(found, key=int if are_of_type(found, "int") else None)
            return cls(tuple(names), is_multi_label, label_type)
        unknown = sorted(found - set(order))
        if unknown:
            raise DataError(f"labels {listed(unknown)}, expected {listed(order)}", path=source_name)
        return cls(tuple(order), is_multi_label, label_type)

    @property
    def values(self) -> tuple[Any, ...]:
        """The labels in the order of their ids, in the type that they had in the training rows."""
        if self.label_type == "bool":
            return tuple(name == str(True) for name in self.names)
        return tuple(map(int, self.names)) if self.label_type == "int" else self.names

    @property
    def is_integer(self) -> bool:
        """Whether every name is a whole number in plain digits (``7``, ``-1``; not ``007``)."""
        return are_of_type(self.names, "int")

    @property
    def sha256(self) -> str:
        """SHA-256 hex digest of the names in order."""
        return hashlib.sha256(json.dumps(self.names, ensure_ascii=True).encode("ascii")).hexdigest()

    @property
    def id2label(self) -> dict[int, str]:
        """Mapping of ids to names, as a transformers config has it."""
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        """Mapping of names to ids, as a transformers config has it."""
        return {name: label_id for label_id, name in enumerate(self.names)}

    def encode(
        self,
        labels: Sequence[Label],
        source_name: str,
        *,
        rows: Sequence[int] | None = None,
        column: str | None = None,
        locate: Callable[[int], Row] = lambda index: index + 1,
    ) -> npt.NDArray[np.int64]:
        """Convert a batch of labels to class ids, or to ones and zeros for multi-label rows.

        Args:
            labels: canonical label texts, or tuples of them where a row may have several.
            source_name: the file, for messages.
            rows: 0-based row of each label; None: they are consecutive from 0.
            column: the label column, for messages.
            locate: maps a 0-based row to the row shown in messages (``ExampleSource.locate``); only called on error.

        Returns:
            Ids of shape (len(labels),), or ones and zeros of shape (len(labels), len(names)) for multi-label rows.

        Raises:
            DataError: a label that is not a class, a single label where a list is expected, or the reverse.
        """
        ids = self.label2id

        def refused(index: int, message: str) -> DataError:
            place = place_of(locate(index if rows is None else rows[index]), source_name)
            name = None if column is None else place_name(column)
            return DataError(message, path=place.file, row=place.row, column=name)

        for index, label in enumerate(labels):
            if isinstance(label, tuple) != self.is_multi_label:
                raise refused(index, _ONE if self.is_multi_label else _SEVERAL)
            for name in label if isinstance(label, tuple) else (label,):
                if name not in ids:
                    raise refused(
                        index,
                        f"the label {shown(name)} is no class of this model, which knows {listed(self.names)}"
                        f"{nearest(name, self.names)}",
                    )
        if self.is_multi_label:
            chosen = np.zeros((len(labels), len(self.names)), dtype=np.int64)
            for index, names in enumerate(labels):
                chosen[index, [ids[name] for name in names]] = 1
            return chosen
        return np.fromiter((ids[str(label)] for label in labels), dtype=np.int64, count=len(labels))

    def to_record(self) -> Labels:
        """Return the names and their hash as stored in ``record.json``."""
        problem_type = MULTI_LABEL if self.is_multi_label else None
        return Labels(
            names=list(self.names),
            sha256=self.sha256,
            problem_type=problem_type,
            label_type=self.label_type,
        )

    @classmethod
    def of_record(cls, record: Labels) -> LabelMap:
        """Restore the label map from a record written by `to_record`.

        Raises:
            CheckpointError: the names are invalid or do not match the saved hash.
        """
        try:
            label_map = cls(tuple(record.names), record.problem_type == MULTI_LABEL, record.label_type)
        except ValueError as error:
            raise CheckpointError(f"label map: {error}") from error
        if record.sha256 != label_map.sha256:
            raise CheckpointError("label map: the names are not those that were saved (sha256 differs)")
        return label_map

    @classmethod
    def of_file(cls, file: ClassifierFile) -> LabelMap:
        """Restore the label map from ``leantune.json``."""
        return cls(tuple(file.labels), file.is_multi_label, file.label_type)


_ONE = (
    "one label, expected a list of labels: write lists, or labels as in oil|grain with "
    f"problem_type={MULTI_LABEL}"
)
_SEVERAL = "a list of labels, expected one: the classifier gives each text one label"


def look_alikes(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield groups of names that are probably one class in several spellings, each name with its number of rows.

    Code points follow where the names differ in what cannot be seen.

    Args:
        counts: the number of rows of each class by name.
    """
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(_appearance(name), []).append(name)
    for group in groups.values():
        if len(group) > 1:
            differ_visibly = len({re.sub(" +", " ", name.casefold()) for name in group}) == 1
            yield " and ".join(
                f"{shown(name)} ({'' if differ_visibly else f'{_code_points(name)}, '}{counts[name]:,} rows)"
                for name in group
            )


def _refuse_invisible(labels: Iterable[str], source_name: str | None) -> None:
    for label in labels:
        if not _appearance(label):
            raise DataError(
                f"the label {shown(label)} ({_code_points(label)}) has no visible character: expected a name",
                path=source_name,
            )


def _refuse_measurements(labels: set[str], source_name: str | None) -> None:
    """Refuse many distinct numbers that are not all whole: they are probably measurements, not classes."""
    if (
        len(labels) > MOST_NUMBERS
        and all(map(_NUMBER.fullmatch, labels))
        and any("." in each for each in labels)
    ):
        raise DataError(
            f"the labels are {len(labels):,} different numbers ({listed(sorted(labels), 3)}): {BINNED}",
            path=source_name,
        )


def _appearance(label: str) -> str:
    """Return a key that ignores normal form, case, white space, invisible characters and the script of digits."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    letters = (str(unicodedata.digit(letter, letter)) for letter in folded if not _is_invisible(letter))
    return " ".join("".join(letters).split())


def _is_invisible(letter: str) -> bool:
    """Whether a character is a joiner, a byte order, direction or variant mark, or a non-space control."""
    is_format = unicodedata.category(letter) in ("Cf", "Cc") and not letter.isspace()
    return is_format or "\ufe00" <= letter <= "\ufe0f" or letter == "\u034f"


def _code_points(label: str, limit: int = 12) -> str:
    points = " ".join(f"U+{ord(letter):04X}" for letter in label[:limit])
    return points + (" ..." if len(label) > limit else "")
