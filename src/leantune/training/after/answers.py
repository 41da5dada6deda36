"""The answers on the validation rows, as a checkpoint stores them.

They take a few bytes per row, or per pair of row and class, and save measuring a checkpoint twice.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from leantune.evaluation.confidence import Answers
from leantune.evaluation.tasks import PairAnswers

PREDICTED = "predicted"
PROBABILITIES = ("confidence", "of_label")
OF_PAIRS = ("probabilities", "thresholds")


def saved_answers(answers: Answers | PairAnswers) -> dict[str, torch.Tensor]:
    """Tensors for a checkpoint: ``(N,)`` each, or ``(N, C)`` and thresholds ``(C,)`` for several labels per text."""
    names = OF_PAIRS if isinstance(answers, PairAnswers) else (PREDICTED, *PROBABILITIES)
    return {name: torch.from_numpy(getattr(answers, name)) for name in names}


def read_answers(
    tensors: Mapping[str, torch.Tensor], label_ids: npt.NDArray[np.int64]
) -> Answers | PairAnswers | None:
    """Read what `saved_answers` stored; None if the checkpoint is of an earlier version, with predictions only."""
    if label_ids.ndim == 2:
        return _read_pairs(tensors, label_ids)
    saved = [tensors[name] for name in (PREDICTED, *PROBABILITIES) if name in tensors]
    if not len(label_ids) or [each.shape for each in saved] != 3 * [label_ids.shape]:
        return None
    predicted, confidence, of_label = (each.numpy() for each in saved)
    return Answers(label_ids=label_ids, predicted=predicted, confidence=confidence, of_label=of_label)


def _read_pairs(tensors: Mapping[str, torch.Tensor], labels: npt.NDArray[np.int64]) -> PairAnswers | None:
    if not len(labels):
        return None
    probabilities, thresholds = (tensors[name].numpy() for name in OF_PAIRS)
    return PairAnswers(labels=labels, probabilities=probabilities, thresholds=thresholds)
