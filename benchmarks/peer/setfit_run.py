"""SetFit on a few rows: ``python -m benchmarks.peer.setfit_run SETTINGS.json OUTPUT.json``.

The pipeline of its authors (Tunstall et al., 2022, arXiv 2209.11055) with their settings: 20 pairs a row, one epoch of
batches of 16 at 2e-5, all weights of the encoder, then logistic regression on the mean of the tokens.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    settings_path, output = sys.argv[1:]
    settings = json.loads(Path(settings_path).read_text("utf-8"))
    (texts, labels), (test_texts, test_labels) = (_read(settings[part]) for part in ("train", "test"))
    started = time.perf_counter()
    model, names = trained(texts, labels, settings)
    seconds = time.perf_counter() - started
    ids = {name: i for i, name in enumerate(names)}
    expected = np.array([ids.get(label, -1) for label in test_labels])
    result = {
        "accuracy": float((np.asarray(model.predict(test_texts)) == expected).mean()),
        "seconds": seconds,
    }
    Path(output).write_text(json.dumps(result) + "\n", "utf-8")


def trained(
    texts: Sequence[str], labels: Sequence[str], settings: Mapping[str, Any]
) -> tuple[Any, list[str]]:
    """A trained ``SetFitModel``, and the names of its classes in the order of their ids.

    Args:
        texts: training texts.
        labels: names of their classes.
        settings: ``model``, ``max_length``, ``seed``, and perhaps ``num_iterations``: pairs of each kind a row.
    """
    try:
        from datasets import Dataset
        from setfit import SetFitModel, Trainer, TrainingArguments
    except ImportError as error:
        raise SystemExit(f"{error.name} is missing: pip install setfit") from error
    names = sorted(set(labels))
    ids = {name: i for i, name in enumerate(names)}
    model = SetFitModel.from_pretrained(settings["model"])
    model.model_body.max_seq_length = settings["max_length"]
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                batch_size=16,
                num_epochs=1,
                num_iterations=settings.get("num_iterations", 20),
                seed=settings["seed"],
                output_dir=scratch,
                report_to="none",
                save_strategy="no",
            ),
            train_dataset=Dataset.from_dict({"text": list(texts), "label": [ids[label] for label in labels]}),
        )
        trainer.train()
    return model, names


def _read(path: str) -> tuple[list[str], list[str]]:
    csv.field_size_limit(sys.maxsize)
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


if __name__ == "__main__":
    main()
