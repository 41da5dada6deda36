"""The models and the rows of the comparison; nothing of it is in the repository."""

from __future__ import annotations

import csv
import json
import os
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from benchmarks.speed.arithmetic import LayerWeights
from benchmarks.speed.process import Workplace

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
CACHE = Path(os.environ.get("LEANTUNE_CACHE", "~/.cache/leantune")).expanduser() / "benchmarks"
Rows = list[tuple[str, str]]
"""(text, label)"""


@dataclass(frozen=True, slots=True)
class Model:
    """An encoder on disk."""

    name: str
    folder: Path
    weights: LayerWeights
    learning_rate: float
    is_pretrained: bool
    """Whether a few steps can teach it anything, so that its loss must fall."""


def available_models(place: Workplace) -> tuple[list[Model], list[str]]:
    """The models that can be had here, and a sentence for each that cannot."""
    models, missing = [_model("MiniLM-L6", _asset("minilm", place), 1e-3, is_pretrained=True)], []
    tokenizer = SHARED_DATA / "roberta_tokenizer"
    roberta = CACHE / "random-roberta-base"
    if not roberta.is_dir() and tokenizer.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).with_name("random_roberta.py")
        place.output_of([sys.executable, str(script), str(tokenizer), str(roberta)])
    if roberta.is_dir():
        models.append(_model("RoBERTa-base shape", roberta, 2e-4, is_pretrained=False))
    else:
        missing.append(f"RoBERTa-base shape: skipped, its tokenizer is not at {tokenizer}")
    return models, missing


def _model(name: str, folder: Path, learning_rate: float, *, is_pretrained: bool) -> Model:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return Model(name, folder, LayerWeights.of(config), learning_rate, is_pretrained)


def read_rows(place: Workplace, *, seed: int = 0) -> tuple[str, Rows]:
    """AG News where it is at hand, else Reuters R8, in a random order: the name and the rows."""
    path = SHARED_DATA / "ag_news" / "train.csv"
    name = "AG News"
    if not path.is_file():
        name, path = "Reuters R8", _asset("reuters-r8", place) / "train.csv"
    with open(path, encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    random.Random(seed).shuffle(rows)
    return name, rows


def write_rows(path: Path, rows: Iterable[tuple[str, str]]) -> Path:
    """``rows`` as a CSV with the columns ``text`` and ``label``."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(rows)
    return path


def repeated(rows: Rows, count: int) -> Iterator[tuple[str, str]]:
    """``count`` different rows of the same lengths: each round of ``rows`` ends with its own number."""
    for i, (text, label) in enumerate(islice(cycle(rows), count)):
        yield f"{text} {i // len(rows)}", label


def _asset(name: str, place: Workplace) -> Path:
    command = [sys.executable, "-m", "leantune", "assets", "--path", name]
    return Path(place.output_of(command).strip())
