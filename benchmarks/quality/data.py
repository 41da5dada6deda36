"""The data sets, cut once, and the encoder that is trained on each."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.inputs import CACHE, SHARED_DATA, Rows, read_rows, write_rows
from benchmarks.quality import methods
from leantune.assets.download import ASSETS, fetch

SEED = 0
"""For the cut; the seeds of the study are those of training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """What is fine-tuned."""

    model: str
    rate_factor: float = 1.0
    """What the learning rates of every grid are multiplied by."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Keys of leantune for its head."""
    pipeline: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `benchmarks.quality.peer`."""

    def learning_rate(self, rate: float) -> float:
        """A rate of a grid for this encoder, to one digit.

        >>> MPNET.learning_rate(1e-3), MPNET.learning_rate(1e-2), MINILM.learning_rate(5e-5)
        (0.0003, 0.003, 5e-05)
        """
        return float(f"{rate * self.rate_factor:.0e}")


_PLAIN_LINES = (methods.INT8_LINE, methods.PLAIN, methods.PLAIN_LORA, methods.PLAIN_UNIFORM)
_OURS = (methods.DEFAULT, methods.TWO_THIRDS, methods.LORA_LINE)
LARGE_METHODS = (*_OURS, methods.UNIFORM, *methods.PEERS, methods.PEER_WITHOUT_DROPOUT, *_PLAIN_LINES)
"""What runs at RoBERTa-base's size."""

MINILM = Encoder(model="asset:minilm")
MPNET = Encoder(
    model="asset:mpnet",
    rate_factor=1 / 3,  # twice the width (benchmarks/notebook)
    recipe={"hidden_learning_rate_ratio": 0.1},
    pipeline={"attention": "eager"},  # transformers has no other for MPNet
)
"""all-mpnet-base-v2, of the size of RoBERTa-base, with the same head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where rows come from, how many are drawn, and what is trained on them."""

    rows: str
    """A folder of the shared data, or an asset."""
    train: int = 4_000
    validation: int = 1_000
    test: int | None = None
    """None: all."""
    encoder: Encoder = MINILM
    rates_of: str | None = None
    """The set whose learning rates it takes; None: it has a grid of its own."""
    methods: tuple[str, ...] | None = None
    """What runs on it; None: all."""
    about: str | None = None
    """A set beside the main table, in a sentence."""


OTHER_METHODS = tuple(method.name for method in methods.MAIN)
"""What runs on the sets that no default was chosen on."""

SOURCES: Mapping[str, Source] = {
    "agnews": Source(rows="ag_news"),
    "r8": Source(rows="reuters-r8"),
    "r52": Source(rows="reuters-r52"),
    "20news": Source(rows="20newsgroups"),
    "hwu64": Source(
        rows="hwu64",
        train=7_000,
        methods=OTHER_METHODS,
        about="64 intents of a home assistant: 7,000 training and 1,000 validation rows of seven words.",
    ),
    "mpqa": Source(
        rows="mpqa",
        train=6_000,
        methods=OTHER_METHODS,
        about="Opinion polarity of phrases of three words: 6,000 training and 1,000 validation rows.",
    ),
    "polarity": Source(
        rows="polarity",
        train=1_200,
        validation=300,
        methods=OTHER_METHODS,
        about="Polarity of film reviews of 750 words, cut as all others: 1,200 training and 300 validation rows.",
    ),
    "agnews-all": Source(
        rows="ag_news",
        train=9_000,
        rates_of="agnews",
        methods=(*_OURS, methods.PEERS[1], *_PLAIN_LINES),
        about="9,000 training and 1,000 validation rows, with the learning rates of agnews.",
    ),
    "agnews-mpnet": Source(
        rows="ag_news",
        train=1_000,
        test=1_900,
        encoder=MPNET,
        methods=LARGE_METHODS,
        about="all-mpnet-base-v2, of the size of RoBERTa-base and with the same head, in place of MiniLM: 1,000 "
        "training, 1,000 validation and 1,900 test rows, and grids of a third of the learning rates. In leantune the "
        "hidden layer of the head learns a tenth as fast as the adapters; `Trainer` has one rate for all.",
    ),
    "r52-mpnet": Source(
        rows="reuters-r52",
        train=1_000,
        encoder=replace(MPNET, rate_factor=1.0),
        methods=LARGE_METHODS,
        about="The same encoder and number of training rows, 52 classes, all 2,568 test rows, with the grids of "
        "MiniLM: of agnews-mpnet's the highest rates are the best.",
    ),
}


@dataclass(frozen=True, slots=True)
class DataSet:
    """Three CSV files with the columns ``text`` and ``label``."""

    name: str
    folder: Path
    num_labels: int
    digest: str
    """Hash of the three files, so that a result belongs to its rows."""
    rates_of: DataSet | None = None
    """The set that ``source.rates_of`` names."""
    source: Source = SOURCES["agnews"]

    def file(self, part: str) -> Path:
        """``train``, ``validation`` or ``test``."""
        return self.folder / f"{part}.csv"


def data_set(name: str) -> DataSet:
    """One of `SOURCES`, cut if it has not been."""
    source, folder = SOURCES[name], CACHE / "quality" / name
    if not (folder / "test.csv").is_file():
        train, test = (read_rows(path) for path in files_of(source))
        chosen, held_out = cut(train, source.train, source.validation, random.Random(SEED))
        if source.test is not None:
            test, _ = cut(test, source.test, 0, random.Random(SEED))
        folder.mkdir(parents=True, exist_ok=True)
        for part, rows in (("train", chosen), ("validation", held_out), ("test", test)):  # test comes last
            write_rows(folder / f"{part}.part", rows).replace(folder / f"{part}.csv")
    files = [folder / f"{part}.csv" for part in ("train", "validation", "test")]
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files))
    labels = {label for _, label in read_rows(files[0])}
    rates_of = data_set(source.rates_of) if source.rates_of else None
    return DataSet(name, folder, len(labels), digest.hexdigest()[:12], rates_of, source)


def missing_source(name: str) -> Path | None:
    """The file that `data_set` would look for in vain: AG News is shared by hand, the others are fetched."""
    file = files_of(SOURCES[name])[0]
    return None if file.is_file() else file


def files_of(source: Source) -> tuple[Path, Path]:
    """Training and test rows."""
    if source.rows in ASSETS:
        folder = fetch([source.rows])[source.rows]
        return folder / "train.csv", folder / "test.csv"
    folder = SHARED_DATA / source.rows
    return folder / "train.csv", folder / ("dev_test.csv" if source.rows == "ag_news" else "test.csv")


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
    {'a': 6, 'b': 3, 'c': 1}
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
