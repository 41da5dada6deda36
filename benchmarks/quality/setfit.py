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

import numpy as np
import torch

from benchmarks.peer.setfit_run import trained
from benchmarks.quality.data import read_rows
from benchmarks.quality.measures import measures_of
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

    def measures(texts: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
        probabilities = np.asarray(model.predict_proba(list(texts)), dtype=np.float64)
        return measures_of(labels, probabilities, names)

    result = {
        "metrics": {part: measures(*parts[part]) for part in ("validation", "test")},
        "parameters": {"initial": numbers, "final": numbers},
        "ranks": None,
        "train_s": seconds,
        "total_s": seconds,
        "peak_rss_bytes": peak,
        "versions": describe_versions(),
        "hardware": describe_hardware(torch.device("cpu")),
    }
    Path(output).write_text(json.dumps(result) + "\n", "utf-8")


if __name__ == "__main__":
    main()
