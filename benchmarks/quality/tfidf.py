"""A linear SVM on words: ``python -m benchmarks.quality.tfidf SETTINGS.json OUTPUT.json``.

Words and pairs of words, weighted by TF-IDF, and scikit-learn's ``LinearSVC``: what every text classifier has to beat.
Its C is chosen by the log loss of a softmax of its margins.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

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
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)),
        LinearSVC(C=settings["learning_rate"], random_state=settings["seed"]),
    ).fit(*parts["train"])
    seconds = time.perf_counter() - started
    numbers = model[-1].coef_.size + model[-1].intercept_.size
    result = {
        "metrics": {part: measured(model, *parts[part]) for part in ("validation", "test")},
        "parameters": {"initial": numbers, "final": numbers},
        "ranks": None,
        "train_s": seconds,
        "total_s": seconds,
        "versions": describe_versions(),
        "hardware": describe_hardware(torch.device("cpu")),
    }
    Path(output).write_text(json.dumps(result) + "\n", "utf-8")


def measured(model: Any, texts: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    margins = model.decision_function(texts)
    if margins.ndim == 1:
        margins = np.stack([-margins, margins], axis=1) / 2
    return measures_of(labels, softmax(margins, axis=1), model.classes_)


if __name__ == "__main__":
    main()
