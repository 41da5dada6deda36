"""Check that a saved classifier computes the same as the trained one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from leantune.errors import CheckpointError

TOLERANCE = 1e-4
"""Largest allowed difference of fp32 logits between the trained and the reloaded model.

It is absolute for logits up to 1, and relative to the largest logit above."""


def check_logits(what: str, found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """The largest difference between the logits ``(N, C)`` of a reloaded artefact and the expected ones.

    Raises:
        CheckpointError: naming the artefact ``what``, if the difference is above `TOLERANCE` or not a number.
    """
    difference = float(np.abs(found - expected).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not difference <= allowed:
        raise CheckpointError(
            f"{what}: after reloading from disk, its logits differ from the trained model's by {difference:.2g}, "
            f"expected at most {allowed:.2g}; it was not written. Please report this bug in leantune"
        )
    return difference
