"""SetFit on all rows: ``python -m benchmarks.quality.setfit SETTINGS.json OUTPUT.json``.

The pipeline of `benchmarks.peer.setfit_run`, measured on validation and test rows. Its authors' 20 pairs a row are
meant for a few rows of each class: of thousands they take hours, so the settings name fewer.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss

from benchmarks.peer.setfit_run import trained
from benchmarks.quality.data import read_rows
from leantune.system.hardware import describe_hardware, describe_versions


def main() -> None:
    settings_path, output = sys.argv[1:]
    settings = json.loads(Path(settings_path).read_text("utf-8"))
    parts = {
        part: tuple(zip(*read_rows(Path(settings["files"][part])), strict=True))
        for part in ("train", "validation", "test")
    }
    started = time.perf_counter()
    model, names = trained(*parts["train"], settings)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    numbers = sum(each.numel() for each in model.model_body.parameters())
    result = {
        "metrics": {part: measured(model, names, *parts[part]) for part in ("validation", "test")},
        "parameters": {"initial": numbers, "final": numbers},
        "ranks": None,
        "train_s": seconds,
        "total_s": seconds,
        "peak_rss_bytes": peak,
        "versions": describe_versions(),
        "hardware": describe_hardware(torch.device("cpu")),
    }
    Path(output).write_text(json.dumps(result) + "\n", "utf-8")


def measured(model: Any, names: list[str], texts: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    probabilities = np.asarray(model.predict_proba(list(texts)), dtype=np.float64)
    ids = [names.index(label) for label in labels]
    predicted = probabilities.argmax(1)
    return {
        "accuracy": float(accuracy_score(ids, predicted)),
        "macro_f1": float(f1_score(ids, predicted, average="macro")),
        "log_loss": float(log_loss(ids, probabilities, labels=range(len(names)))),
    }


if __name__ == "__main__":
    main()
