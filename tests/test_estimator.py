"""The scikit-learn face."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from leantune.errors import DataError
from leantune.estimator import LeanTextClassifier

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*rank_pattern keys.*:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors.*:UserWarning"),
]

SETTINGS = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-2, "max_length": 32, "validation_size": 48}


def rows(path) -> tuple[list[str], np.ndarray]:
    with path.open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    return [row["text"] for row in read], np.array(["abc".index(row["label"]) * 10 for row in read])


def test_fit_predict_and_score_follow_scikit_learn(inputs):
    texts, labels = rows(inputs / "train.csv")
    unfitted = LeanTextClassifier(str(inputs / "encoder"), max_trainable_params=4000, recipe=SETTINGS)
    estimator = clone(unfitted).fit(texts, labels)
    assert estimator.classes_.tolist() == [0, 10, 20]
    test_texts, test_labels = rows(inputs / "test.csv")
    probabilities = estimator.predict_proba(test_texts)
    assert probabilities.shape == (60, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert estimator.predict(test_texts).dtype == labels.dtype
    assert estimator.score(test_texts, test_labels) == pytest.approx(
        (estimator.predict(test_texts) == test_labels).mean()
    )
    assert estimator.score(test_texts, test_labels) > 0.6
    assert estimator.record_["parameters"]["initial"] <= 4000
    assert estimator.predict_proba([]).shape == (0, 3)


def test_an_unfitted_estimator_says_so(inputs):
    with pytest.raises(NotFittedError):
        LeanTextClassifier(str(inputs / "encoder")).predict_proba(["word1"])


def test_bad_texts_are_data_errors(inputs):
    with pytest.raises(DataError):
        LeanTextClassifier(str(inputs / "encoder"), recipe=SETTINGS).fit(["word1", 7] * 40, ["a", "b"] * 40)
