"""Whether what was written computes what was trained."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from leantune.errors import CheckpointError

TOLERANCE = 1e-4
"""Largest difference of fp32 logits between the trained model and what is reloaded, for logits up to 1;
above, relative to the largest."""


def check_logits(what: str, found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """The largest difference between the logits ``(N, C)`` of a reloaded artefact and those expected of it.

    Raises:
        CheckpointError: naming ``what`` it is, if the difference is above `TOLERANCE`, or no number.
    """
    difference = float(np.abs(found - expected).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not difference <= allowed:
        raise CheckpointError(
            f"{what}: reloaded from disk its logits differ from the trained model's by {difference:.2g}, "
            f"expected at most {allowed:.2g}; it was not written. Please report this bug of leantune"
        )
    return difference
