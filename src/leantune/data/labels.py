"""Class names and their ids. The order is explicit and saved with the model; row order never matters."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leantune.config.run_record import Labels
from leantune.data.table import Row, place_of
from leantune.errors import CheckpointError, DataError
from leantune.system.messages import listed, nearest, place_name, shown

_INTEGER = re.compile(r"0|-?[1-9]\d*", re.ASCII)


@dataclass(frozen=True, slots=True)
class LabelMap:
    """Class names in the order of their ids: ``names[id]``.

    Raises:
        ValueError: fewer than two names, or one twice.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) < 2 or len(set(self.names)) < len(self.names):
            raise ValueError(f"names must be two or more, each once. Got {listed(self.names)} instead.")

    @classmethod
    def of(
        cls, values: Iterable[str], *, order: Sequence[str] | None = None, source_name: str | None = None
    ) -> LabelMap:
        """The classes of a training set.

        Args:
            values: canonical label texts, repeated as they come.
            order: the names in the order of their ids, from a ``datasets.ClassLabel``; None sorts
                them: as numbers if all are whole numbers, else as text.
            source_name: the file, for messages.

        Raises:
            DataError: fewer than two different labels, one that shows nothing, or one that ``order`` lacks.
        """
        found = set(values)
        if len(found) < 2:
            raise DataError(
                f"{len(found)} class in the labels ({listed(found)}), expected two or more: "
                "check the label column",
                path=source_name,
            )
        if order is None:
            _refuse_invisible(found, source_name)
            return cls(tuple(sorted(found, key=int if _all_integers(found) else None)))
        unknown = sorted(found - set(order))
        if unknown:
            raise DataError(f"labels {listed(unknown)}, expected {listed(order)}", path=source_name)
        return cls(tuple(order))

    @property
    def is_integer(self) -> bool:
        """Whether every name is a whole number in plain digits (``7``, ``-1``; not ``007``)."""
        return _all_integers(self.names)

    @property
    def sha256(self) -> str:
        """Hex digest of the names in their order."""
        return hashlib.sha256(json.dumps(self.names, ensure_ascii=True).encode("ascii")).hexdigest()

    @property
    def id2label(self) -> dict[int, str]:
        """Id -> name, for a transformers config."""
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        """Name -> id, for a transformers config."""
        return {name: label_id for label_id, name in enumerate(self.names)}

    def encode(
        self,
        labels: Sequence[str],
        source_name: str,
        *,
        start: int = 0,
        column: str | None = None,
        locate: Callable[[int], Row] = lambda index: index + 1,
    ) -> npt.NDArray[np.int64]:
        """The ids of a batch of labels.

        Args:
            labels: canonical label texts.
            source_name: the file, for messages.
            start: 0-based row of the first label.
            column: the label column, for messages.
            locate: 0-based row -> what to print for it (``ExampleSource.locate``); called on error only.

        Returns:
            (len(labels),) ids.

        Raises:
            DataError: a label that is no class.
        """
        ids = self.label2id
        for index, label in enumerate(labels):
            if label not in ids:
                place = place_of(locate(start + index), source_name)
                raise DataError(
                    f"the label {shown(label)} is no class of this model, which knows {listed(self.names)}"
                    f"{nearest(label, self.names)}",
                    path=place.file,
                    row=place.row,
                    column=None if column is None else place_name(column),
                )
        return np.fromiter((ids[label] for label in labels), dtype=np.int64, count=len(labels))

    def to_record(self) -> Labels:
        """The names and their hash, as ``record.json`` has them."""
        return Labels(names=list(self.names), sha256=self.sha256)

    @classmethod
    def of_record(cls, record: Labels) -> LabelMap:
        """The map that `to_record` described.

        Raises:
            CheckpointError: for names that cannot be, or do not have that hash.
        """
        try:
            label_map = cls(tuple(record.names))
        except ValueError as error:
            raise CheckpointError(f"label map: {error}") from error
        if record.sha256 != label_map.sha256:
            raise CheckpointError("label map: the names are not those that were saved (sha256 differs)")
        return label_map


def look_alikes(names: Iterable[str]) -> Iterator[str]:
    """Names that are most likely one class in several spellings, each with its code points; one text a class."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_appearance(name), []).append(name)
    for group in groups.values():
        if len(group) > 1:
            yield " and ".join(f"{shown(name)} ({_code_points(name)})" for name in group)


def _refuse_invisible(labels: Iterable[str], source_name: str | None) -> None:
    for label in labels:
        if not _appearance(label):
            raise DataError(
                f"the label {shown(label)} ({_code_points(label)}) shows nothing: expected a name",
                path=source_name,
            )


def _appearance(label: str) -> str:
    """What labels share that differ only in normal form, case, white space, invisible characters or the script of
    digits.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    letters = (str(unicodedata.digit(letter, letter)) for letter in folded if not _is_invisible(letter))
    return " ".join("".join(letters).split())


def _is_invisible(letter: str) -> bool:
    """Joiners, marks of byte order, of direction and of variants, and controls that are no white space."""
    is_format = unicodedata.category(letter) in ("Cf", "Cc") and not letter.isspace()
    return is_format or "\ufe00" <= letter <= "\ufe0f" or letter == "\u034f"


def _code_points(label: str, limit: int = 12) -> str:
    points = " ".join(f"U+{ord(letter):04X}" for letter in label[:limit])
    return points + (" ..." if len(label) > limit else "")


def _all_integers(names: Iterable[str]) -> bool:
    return all(_INTEGER.fullmatch(name) for name in names)
