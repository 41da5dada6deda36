"""Classifiers and rows for these benchmarks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from tiny import WORDS, save_tiny_encoder, write_rows

LEANTUNE = (sys.executable, "-m", "leantune")


def tiny_run(folder: Path) -> Path:
    """A run of a tiny BERT, trained once."""
    run = folder / "run"
    if not (run / "merged").exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_tiny_encoder(folder / "encoder")
        write_rows(folder / "train.csv", 240)
        train(run, folder / "train.csv", str(folder / "encoder"), "max_length=32", "epochs=4")
    return run


def train(run: Path, data: Path, model: str, *keys: str) -> None:
    """Train with few parameters."""
    words = ["train", f"data={data}", f"model={model}", f"output={run}", "max_trainable_params=100k", *keys]
    subprocess.run(
        [*LEANTUNE, *words, "--overwrite"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def write_texts(path: Path, rows: int, row_group: int, *, words: int = 6, seed: int = 0) -> Path:
    """A Parquet file of random texts with ids."""
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
