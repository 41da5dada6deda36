"""What depends on how many labels a text may have: what probabilities are, which numbers measure them, what is said of
rows. One of the two tasks is taken by the labels; the loss of each is in `leantune.training.objectives`.

N rows, C classes. Labels are class ids ``(N,)``, or ones and zeros ``(N, C)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from leantune.evaluation.confidence import Answers
from leantune.evaluation.metrics import Integers, Metrics, evaluate_probabilities
from leantune.evaluation.multi_label_metrics import evaluate_label_sets, pair_log_losses
from leantune.evaluation.thresholds import choose_thresholds

Floats = npt.NDArray[np.float64]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairAnswers:
    """What a classifier said of each pair of a labelled row and a class."""

    labels: npt.NDArray[np.int64]
    """``(N, C)`` ones and zeros."""
    probabilities: npt.NDArray[np.float32]
    """``(N, C)``."""
    thresholds: Floats
    """``(C,)`` the least probability of a predicted label."""

    @property
    def predicted(self) -> npt.NDArray[np.bool_]:
        """``(N, C)``."""
        return np.asarray(self.probabilities >= self.thresholds)


class Task(Protocol):
    """How logits are read."""

    def probabilities(self, logits: Logits) -> Floats:
        """``(N, C)`` float64 of logits ``(N, C)``."""

    def evaluate(
        self,
        probabilities: Floats,
        labels: Integers,
        label_names: Sequence[str],
        thresholds: Floats | None = None,
    ) -> Metrics:
        """Measure probabilities; thresholds ``(C,)`` are of several labels a text, None: chosen on these rows."""

    def answers(
        self, probabilities: Floats, labels: Integers, thresholds: Floats | None = None
    ) -> Answers | PairAnswers:
        """What is said of each row."""

    def log_losses(self, probabilities: Floats, labels: Integers) -> Floats:
        """``(N,)``, infinite nowhere."""

    def is_right(self, probabilities: Floats, labels: Integers) -> npt.NDArray[np.bool_]:
        """``(N,)`` whether the most probable label is the row's, or the labels of more than a half are all of its."""


class OneLabel:
    """A text has one label: softmax."""

    def probabilities(self, logits: Logits) -> Floats:
        """They sum to 1 in each row."""
        return softmax(logits)

    def evaluate(
        self,
        probabilities: Floats,
        labels: Integers,
        label_names: Sequence[str],
        thresholds: Floats | None = None,
    ) -> Metrics:
        """See `evaluate_probabilities`."""
        return evaluate_probabilities(probabilities, labels, label_names)

    def answers(self, probabilities: Floats, labels: Integers, thresholds: Floats | None = None) -> Answers:
        """See `Answers`."""
        return Answers.of(probabilities, labels)

    def log_losses(self, probabilities: Floats, labels: Integers) -> Floats:
        """Negative log-likelihood of the label of each row."""
        own = probabilities[np.arange(len(labels)), labels]
        return np.asarray(-np.log(np.maximum(own, np.finfo(own.dtype).tiny)))

    def is_right(self, probabilities: Floats, labels: Integers) -> npt.NDArray[np.bool_]:
        """Whether the most probable label is the row's."""
        return np.asarray(probabilities.argmax(axis=1) == labels)


class SeveralLabels:
    """A text has any number of labels: a sigmoid for each."""

    def probabilities(self, logits: Logits) -> Floats:
        """Each by itself."""
        found: Floats = torch.from_numpy(logits).double().sigmoid().numpy()
        return found

    def evaluate(
        self,
        probabilities: Floats,
        labels: Integers,
        label_names: Sequence[str],
        thresholds: Floats | None = None,
    ) -> Metrics:
        """See `evaluate_label_sets`."""
        if thresholds is None:
            thresholds = choose_thresholds(probabilities, labels)
        return evaluate_label_sets(probabilities, labels, label_names, thresholds)

    def answers(
        self, probabilities: Floats, labels: Integers, thresholds: Floats | None = None
    ) -> PairAnswers:
        """See `PairAnswers`."""
        if thresholds is None:
            thresholds = choose_thresholds(probabilities, labels)
        return PairAnswers(
            labels=labels.astype(np.int64),
            probabilities=probabilities.astype(np.float32),
            thresholds=thresholds,
        )

    def log_losses(self, probabilities: Floats, labels: Integers) -> Floats:
        """Negative log-likelihood of the label set of each row, summed over the classes."""
        return np.asarray(pair_log_losses(probabilities, labels).sum(axis=1))

    def is_right(self, probabilities: Floats, labels: Integers) -> npt.NDArray[np.bool_]:
        """Whether the labels of more than a half are all of the row's."""
        return np.asarray(((probabilities > 0.5) == (labels == 1)).all(axis=1))


def task_of(*, is_multi_label: bool) -> Task:
    """The task of labels."""
    return SeveralLabels() if is_multi_label else OneLabel()


def softmax(logits: Logits) -> Floats:
    """Class probabilities ``(N, C)`` float64 of logits ``(N, C)``."""
    probabilities: Floats = torch.from_numpy(logits).double().softmax(-1).numpy()
    return probabilities
