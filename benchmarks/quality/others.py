"""Pipelines without transformers' ``Trainer``.

``tfidf`` is a linear SVM (scikit-learn's ``LinearSVC``) on words and pairs of words, weighted by TF-IDF, which every
text classifier has to beat. Its C is chosen by the log loss of a softmax of its margins.

``setfit`` is SetFit with the settings of its authors (Tunstall et al., 2022, arXiv 2209.11055): one epoch of batches of
16 at 2e-5, all weights of the encoder, then logistic regression on the mean of the tokens. Their 20 pairs a row are
meant for a few rows of each class and take hours for thousands of rows, so the settings name how many.
"""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.metrics import accuracy_score, f1_score, log_loss

from benchmarks.harness import timed
from benchmarks.inputs import read_rows

Classifier = tuple[Callable[[Sequence[str]], np.ndarray], Sequence[str], int]
"""Its probabilities of texts, the names of its classes in the same order, and how many numbers were trained."""


def tfidf(texts: Sequence[str], labels: Sequence[str], settings: Mapping[str, Any]) -> Classifier:
    """``settings``: ``learning_rate``, which is its C, and ``seed``."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    svm = LinearSVC(C=settings["learning_rate"], random_state=settings["seed"])
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), svm).fit(texts, labels)

    def probabilities(texts: Sequence[str]) -> np.ndarray:
        margins = model.decision_function(texts)
        return softmax(np.stack([-margins, margins], axis=1) / 2 if margins.ndim == 1 else margins, axis=1)

    return probabilities, model.classes_, svm.coef_.size + svm.intercept_.size


def setfit(texts: Sequence[str], labels: Sequence[str], settings: Mapping[str, Any]) -> Classifier:
    """``settings``: ``model``, ``max_length``, ``seed``, and ``num_iterations``, pairs of each kind a row."""
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
        arguments = TrainingArguments(
            batch_size=16,
            num_epochs=1,
            num_iterations=settings["num_iterations"],
            seed=settings["seed"],
            output_dir=scratch,
            report_to="none",
            save_strategy="no",
        )
        rows = Dataset.from_dict({"text": list(texts), "label": [ids[label] for label in labels]})
        Trainer(model=model, args=arguments, train_dataset=rows).train()
    numbers = sum(each.numel() for each in model.model_body.parameters())
    return lambda texts: np.asarray(model.predict_proba(list(texts)), dtype=np.float64), names, numbers


def measures_of(labels: Any, probabilities: Any, classes: Sequence[Any]) -> dict[str, float]:
    """Accuracy, macro F1 and log loss; ``probabilities`` are in the order of ``classes``, of which ``labels`` are."""
    predicted = np.asarray(classes)[np.asarray(probabilities).argmax(axis=1)]
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro")),
        "log_loss": float(log_loss(labels, probabilities, labels=classes)),
    }


PIPELINES = {"tfidf": tfidf, "setfit": setfit}
"""By the ``adapter`` of the settings."""


def measured(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One run: a classifier of the training rows, measured on all other files of the settings."""
    parts = {
        part: tuple(zip(*read_rows(Path(path)), strict=True)) for part, path in settings["files"].items()
    }
    train, build = parts.pop("train"), PIPELINES[settings["adapter"]]
    (probabilities, classes, numbers), seconds = timed(lambda: build(*train, settings))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "metrics": {
            part: measures_of(labels, probabilities(texts), classes)
            for part, (texts, labels) in parts.items()
        },
        "parameters": {"initial": numbers, "final": numbers},
        "ranks": None,
        "train_s": seconds,
        "total_s": seconds,
        "peak_rss_bytes": peak,
    }
