"""The two tasks, one label per text and several: their probabilities, metrics and answers.

The labels decide which task applies. The losses are in `leantune.training.objectives`.

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
    """A classifier's answers for each pair of a labelled row and a class."""

    labels: npt.NDArray[np.int64]
    """``(N, C)`` ones and zeros."""
    probabilities: npt.NDArray[np.float32]
    """``(N, C)``."""
    thresholds: Floats
    """``(C,)`` least probability of a predicted label."""

    @property
    def predicted(self) -> npt.NDArray[np.bool_]:
        """``(N, C)`` whether each label is predicted."""
        return np.asarray(self.probabilities >= self.thresholds)


class Task(Protocol):
    """The interpretation of logits."""

    def probabilities(self, logits: Logits) -> Floats:
        """Probabilities ``(N, C)`` float64 of logits ``(N, C)``."""

    def evaluate(
        self,
        probabilities: Floats,
        labels: Integers,
        label_names: Sequence[str],
        thresholds: Floats | None = None,
    ) -> Metrics:
        """Measure probabilities; thresholds ``(C,)`` apply to several labels per text; None: choose them here."""

    def answers(
        self, probabilities: Floats, labels: Integers, thresholds: Floats | None = None
    ) -> Answers | PairAnswers:
        """The answer for each row."""

    def log_losses(self, probabilities: Floats, labels: Integers) -> Floats:
        """Log loss of each row ``(N,)``; always finite."""

    def is_right(self, probabilities: Floats, labels: Integers) -> npt.NDArray[np.bool_]:
        """Whether each row is right ``(N,)``: by its most probable label, or by all labels with more than a half."""


class OneLabel:
    """One label per text: softmax."""

    def probabilities(self, logits: Logits) -> Floats:
        """Softmax probabilities, which sum to 1 in each row."""
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
        """Negative log-likelihood of each row's label."""
        own = probabilities[np.arange(len(labels)), labels]
        return np.asarray(-np.log(np.maximum(own, np.finfo(own.dtype).tiny)))

    def is_right(self, probabilities: Floats, labels: Integers) -> npt.NDArray[np.bool_]:
        """Whether the most probable label is the row's label."""
        return np.asarray(probabilities.argmax(axis=1) == labels)


class SeveralLabels:
    """Any number of labels per text: one sigmoid per label."""

    def probabilities(self, logits: Logits) -> Floats:
        """Sigmoid probabilities, separate for each label."""
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
        """Negative log-likelihood of each row's label set, summed over the classes."""
        return np.asarray(pair_log_losses(probabilities, labels).sum(axis=1))

    def is_right(self, probabilities: Floats, labels: Integers) -> npt.NDArray[np.bool_]:
        """Whether the labels with a probability above a half are exactly the row's labels."""
        return np.asarray(((probabilities > 0.5) == (labels == 1)).all(axis=1))


def task_of(*, is_multi_label: bool) -> Task:
    """The task for one label per text, or for several."""
    return SeveralLabels() if is_multi_label else OneLabel()


def softmax(logits: Logits) -> Floats:
    """Class probabilities ``(N, C)`` float64 of logits ``(N, C)``."""
    probabilities: Floats = torch.from_numpy(logits).double().softmax(-1).numpy()
    return probabilities
