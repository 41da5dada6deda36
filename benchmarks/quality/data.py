"""The data sets, cut once: four to 4,000 training and 1,000 validation rows, one whole; all test rows."""

from __future__ import annotations

import csv
import hashlib
import random
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.inputs import CACHE, SHARED_DATA, Rows, write_rows
from leantune.data.assets import fetch

TRAIN_ROWS, VALIDATION_ROWS = 4_000, 1_000
WHOLE = "agnews-all"
"""All 10,000 rows of AG News, 1,000 of them to validate on."""
WHOLE_TRAIN_ROWS = 9_000
SEED = 0
"""Of the cut; the seeds of the study are those of training."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """Three CSV files with the columns ``text`` and ``label``."""

    name: str
    folder: Path
    num_labels: int
    digest: str
    """Of the three files, so that a result belongs to its rows."""
    rates_of: DataSet | None = None
    """The set whose learning rates it takes; None: it has a grid of its own."""

    def file(self, part: str) -> Path:
        """``train``, ``validation`` or ``test``."""
        return self.folder / f"{part}.csv"


def data_set(name: str) -> DataSet:
    """One of `SOURCES`, cut if it has not been."""
    folder = CACHE / "quality" / name
    if not (folder / "test.csv").is_file():
        train, test = (_read(path) for path in _source(name))
        train_rows = WHOLE_TRAIN_ROWS if name == WHOLE else TRAIN_ROWS
        chosen, held_out = cut(train, train_rows, VALIDATION_ROWS, random.Random(SEED))
        folder.mkdir(parents=True, exist_ok=True)
        for part, rows in (("train", chosen), ("validation", held_out), ("test", test)):  # test comes last
            write_rows(folder / f"{part}.part", rows).replace(folder / f"{part}.csv")
    files = [folder / f"{part}.csv" for part in ("train", "validation", "test")]
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files))
    labels = {label for _, label in _read(files[0])}
    rates_of = data_set("agnews") if name == WHOLE else None
    return DataSet(name, folder, len(labels), digest.hexdigest()[:12], rates_of)


SOURCES = ("agnews", "r8", "r52", "20news", WHOLE)
_ASSETS = {"r8": "reuters-r8", "r52": "reuters-r52", "20news": "20newsgroups"}


def missing_source(name: str) -> Path | None:
    """The file that `data_set` would look for in vain: AG News is shared by hand, the others are fetched."""
    source = _source(name)[0] if name not in _ASSETS else None
    return source if source and not source.is_file() else None


def _source(name: str) -> tuple[Path, Path]:
    if name in _ASSETS:
        folder = fetch([_ASSETS[name]])[_ASSETS[name]]
        return folder / "train.csv", folder / "test.csv"
    return SHARED_DATA / "ag_news" / "train.csv", SHARED_DATA / "ag_news" / "dev_test.csv"


def _read(path: Path) -> Rows:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


def cut(rows: Rows, train: int, validation: int, rng: random.Random) -> tuple[Rows, Rows]:
    """Rows to train on and rows to validate on, each class in proportion; every class is trained on.

    Args:
        rows: all there are, at least ``train + validation``.
        train: rows to train on.
        validation: rows to validate on.
        rng: draws them and their order.
    """
    by_label: dict[str, Rows] = defaultdict(list)
    for row in rows:
        by_label[row[1]].append(row)
    for each in by_label.values():
        rng.shuffle(each)
    counts = {label: len(each) for label, each in sorted(by_label.items())}
    wanted = shares(counts, train, least=1)
    left = {label: count - wanted[label] for label, count in counts.items()}
    held_out = shares(left, validation, least=0)
    chosen = [row for label in counts for row in by_label[label][: wanted[label]]]
    rest = [
        row for label in counts for row in by_label[label][wanted[label] : wanted[label] + held_out[label]]
    ]
    rng.shuffle(chosen)
    rng.shuffle(rest)
    return chosen, rest


def shares(counts: dict[str, int], total: int, *, least: int) -> dict[str, int]:
    """``total`` shared out in proportion to ``counts``, the largest remainders rounded up.

    >>> shares({"a": 60, "b": 39, "c": 1}, 10, least=1)
    {'a': 5, 'b': 4, 'c': 1}
    """
    whole = sum(counts.values())
    if total > whole:
        raise ValueError(f"{total} of {whole} rows")
    given = {label: min(count, least) for label, count in counts.items()}
    while (missing := total - sum(given.values())) > 0:
        # the label that is furthest below its exact share comes next; a few thousand rounds at most
        exact = {label: total * count / whole for label, count in counts.items()}
        open_ = [label for label in counts if given[label] < counts[label]]
        gaps = {label: exact[label] - given[label] for label in open_}
        first = max(gaps, key=lambda label: gaps[label])
        given[first] += max(1, min(missing, int(gaps[first])))
    return given
