"""Encoders, rows and classifiers that benchmarks work with; nothing of it is in the repository."""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import ROOT
from benchmarks.processes import COMMAND, Workplace, train
from benchmarks.speed.arithmetic import LayerWeights
from leantune.assets.download import fetch

sys.path.append(str(ROOT / "tests"))

SHARED_DATA = ROOT.parent / "shared" / "data"
AG_NEWS = SHARED_DATA / "ag_news"
"""``train.csv`` and ``dev_test.csv``, with labels by a crowd besides."""
CACHE = Path(os.environ.get("COMMAND_CACHE", "~/.cache/leantune")).expanduser() / "benchmarks"
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
    minilm, roberta = _asset("minilm", place), CACHE / "random-roberta-base"
    models = [Model("MiniLM-L6", minilm, _weights_of(minilm), 1e-3, is_pretrained=True)]
    tokenizer = SHARED_DATA / "roberta_tokenizer"
    if not roberta.is_dir() and tokenizer.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        script = ROOT / "benchmarks" / "speed" / "random_roberta.py"
        place.output_of([sys.executable, str(script), str(tokenizer), str(roberta)])
    if not roberta.is_dir():
        return models, [f"RoBERTa-base shape: skipped, its tokenizer is not at {tokenizer}"]
    shape = Model("RoBERTa-base shape", roberta, _weights_of(roberta), 2e-4, is_pretrained=False)
    return [*models, shape], []


def _weights_of(model: Path) -> LayerWeights:
    return LayerWeights.of(json.loads((model / "config.json").read_text("utf-8")))


def _asset(name: str, place: Workplace) -> Path:
    return Path(place.output_of([*COMMAND, "assets", "--path", name]).strip())


def shuffled_rows(place: Workplace, *, seed: int = 0) -> tuple[str, Rows]:
    """AG News where it is at hand, else Reuters R8, in a random order: the name and the rows."""
    name, path = "AG News", AG_NEWS / "train.csv"
    if not path.is_file():
        name, path = "Reuters R8", _asset("reuters-r8", place) / "train.csv"
    rows = read_rows(path)
    random.Random(seed).shuffle(rows)
    return name, rows


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV, by column."""
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_rows(path: Path) -> Rows:
    """The rows of a CSV with the columns ``text`` and ``label``."""
    return [(row["text"], row["label"]) for row in read_table(path)]


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


def finished_run(text: str) -> Path:
    """The folder of a finished run, from a command line."""
    run = Path(text).resolve()
    if not (run / "merged" / "config.json").is_file():
        raise argparse.ArgumentTypeError(
            f"{text}: no finished run; make quickstart leaves one in runs/quickstart"
        )
    return run


def minilm_run(work: Path, **keys: object) -> Path:
    """A run of MiniLM-L6 on AG News in ``work``, trained once: an epoch, unless ``keys`` say otherwise."""
    run = work / "run"
    if not (run / "merged").exists():
        work.mkdir(parents=True, exist_ok=True)
        fetch(["minilm"])
        recipe = {"data": AG_NEWS / "train.csv", "model": "asset:minilm", "max_length": 128, "epochs": 1}
        train(run, **recipe | {"max_trainable_params": "100k"} | keys)
    return run


def make_tiny_inputs(folder: Path) -> None:
    """A tiny encoder with dropout and some rows, made once."""
    from tiny import save_tiny_encoder
    from tiny import write_rows as write_tiny_rows

    if not (folder / "test.csv").exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_tiny_encoder(folder / "encoder")
        write_tiny_rows(folder / "train.csv", 240)
        write_tiny_rows(folder / "test.csv", 60, seed=1)


def tiny_run(folder: Path) -> Path:
    """A run of a tiny BERT in ``folder``, trained once."""
    run = folder / "run"
    if not (run / "merged").exists():
        make_tiny_inputs(folder)
        sizes = {"max_length": 32, "epochs": 4, "max_trainable_params": "100k"}
        train(run, data=folder / "train.csv", model=folder / "encoder", **sizes)
    return run


def write_texts(path: Path, rows: int, row_group: int, *, words: int = 6, seed: int = 0) -> Path:
    """A Parquet file of random texts with ids."""
    from tiny import WORDS

    rng = np.random.default_rng(seed)
    vocabulary = np.array(WORDS[:64])
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, row_group):
            count = min(row_group, rows - start)
            texts = [" ".join(each) for each in vocabulary[rng.integers(0, 64, (count, words))]]
            ids = [f"{path.stem}-{i}" for i in range(start, start + count)]
            writer.write_table(pa.table({"id": ids, "text": texts}, schema=schema), row_group_size=count)
    return path
