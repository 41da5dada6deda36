"""What a checkpoint keeps of the answers on the validation rows: a few bytes a row; so nothing is measured twice."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from leantune.inference.confidence import Answers

PREDICTED = "predicted"
PROBABILITIES = ("confidence", "of_label")


def saved_answers(answers: Answers) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, each ``(N,)``."""
    return {name: torch.from_numpy(getattr(answers, name)) for name in (PREDICTED, *PROBABILITIES)}


def read_answers(tensors: Mapping[str, torch.Tensor], label_ids: npt.NDArray[np.int64]) -> Answers | None:
    """What `saved_answers` gave; None in a checkpoint of an earlier version, which has the predictions alone."""
    saved = [tensors[name] for name in (PREDICTED, *PROBABILITIES) if name in tensors]
    if not len(label_ids) or [each.shape for each in saved] != 3 * [label_ids.shape]:
        return None
    predicted, confidence, of_label = (each.numpy() for each in saved)
    return Answers(label_ids=label_ids, predicted=predicted, confidence=confidence, of_label=of_label)
