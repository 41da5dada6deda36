"""The models and the rows of the comparison; nothing of it is in the repository."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from benchmarks.speed.arithmetic import encoder_linear_parameters

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
CACHE = Path(os.environ.get("LEANTUNE_CACHE", "~/.cache/leantune")).expanduser() / "benchmarks"
Rows = list[tuple[str, str]]
"""(text, label)"""


@dataclass(frozen=True, slots=True)
class Model:
    """A pretrained encoder on disk."""

    name: str
    folder: Path
    linear_parameters: int
    """Weights of the linear layers of its blocks."""
    learning_rate: float
    """At which its loss falls within a few steps."""


def available_models(environment: Mapping[str, str]) -> tuple[list[Model], list[str]]:
    """The models that can be had here, and a sentence for each that cannot."""
    models, missing = [_model("MiniLM-L6", _asset("minilm", environment), 1e-3)], []
    tokenizer = SHARED_DATA / "roberta_tokenizer"
    roberta = CACHE / "random-roberta-base"
    if not roberta.is_dir() and tokenizer.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).with_name("random_roberta.py")
        output_of([sys.executable, str(script), str(tokenizer), str(roberta)], environment)
    if roberta.is_dir():
        models.append(_model("RoBERTa-base shape", roberta, 2e-4))
    else:
        missing.append(f"RoBERTa-base shape: skipped, its tokenizer is not at {tokenizer}")
    return models, missing


def _model(name: str, folder: Path, learning_rate: float) -> Model:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return Model(name, folder, encoder_linear_parameters(config), learning_rate)


def read_rows(environment: Mapping[str, str], *, seed: int = 0) -> tuple[str, Rows]:
    """AG News where it is at hand, else Reuters R8, in a random order: the name and the rows."""
    path = SHARED_DATA / "ag_news" / "train.csv"
    name = "AG News"
    if not path.is_file():
        name, path = "Reuters R8", _asset("reuters-r8", environment) / "train.csv"
    with open(path, encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    random.Random(seed).shuffle(rows)
    return name, rows


def write_rows(path: Path, rows: Rows) -> Path:
    """``rows`` as a CSV with the columns ``text`` and ``label``."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(rows)
    return path


def repeated(rows: Rows, count: int) -> Rows:
    """``count`` different rows of the same lengths: each round of ``rows`` ends with its own number."""
    numbered = ((f"{text} {i // len(rows)}", label) for i, (text, label) in enumerate(cycle(rows)))
    return list(islice(numbered, count))


def _asset(name: str, environment: Mapping[str, str]) -> Path:
    command = [sys.executable, "-m", "leantune.cli", "assets", "--path", name]
    return Path(output_of(command, environment).strip())


def output_of(command: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True)
    return done.stdout
