"""Decide which predictions to give and when to abstain, by calibrated probabilities and their thresholds.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from leantune.config.abstention_file import Abstention
from leantune.errors import UsageError
from leantune.evaluation.metrics import Floats


def with_temperature(probabilities_NC: Floats, temperature: float) -> npt.NDArray[np.float64]:
    """The probabilities ``(N, C)`` after dividing the logits by ``temperature``."""
    logits = np.log(np.maximum(probabilities_NC.astype(np.float64), 1e-300)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scaled: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return scaled


def is_answered(
    calibrated_NC: Floats, abstention: Abstention, names: Sequence[str], *, per_class: bool
) -> npt.NDArray[np.bool_]:
    """Whether the most probable class reaches its threshold, ``(N,)``."""
    if not per_class:
        least = 2.0 if abstention.overall is None else abstention.overall.least
        return np.asarray(calibrated_NC.max(axis=1) >= least)
    least_C = np.array(
        [abstention.per_class[name].least if name in abstention.per_class else 2.0 for name in names]
    )
    return np.asarray(calibrated_NC.max(axis=1) >= least_C[calibrated_NC.argmax(axis=1)])


def required_abstention(abstention: Abstention | None, source: Path) -> Abstention:
    """Return the abstention thresholds of the classifier in ``source``.

    Raises:
        UsageError: if none were chosen.
    """
    if abstention is None:
        raise UsageError(
            f"{source}: no threshold was chosen; choose one with: leantune abstain {shlex.quote(str(source))} "
            "--precision 95%"
        )
    return abstention
