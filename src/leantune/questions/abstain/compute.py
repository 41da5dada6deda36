"""When a classifier should not answer: a threshold on its calibrated probability that keeps a wanted precision.

The threshold is chosen by fixed-sequence testing (Angelopoulos, Bates, Candès, Jordan and Lei, 2021, Learn then Test,
arXiv 2110.01052, section 3.1 and algorithm 1) with exact binomial p-values. Thresholds of a fixed grid are tested from
high to low, each against "more than a share of 1 - precision of the predictions above it are wrong", and the last one
before a test fails is taken. With several starts the level is divided by their number. So the probability, over the
drawing of the rows, that the precision of what is answered is below the wanted one is at most 1 - confidence.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from leantune.config.abstention_file import Abstention, Threshold, write_abstention
from leantune.data.label_sets import require_one_label
from leantune.errors import DataError
from leantune.evaluation.abstention import with_temperature
from leantune.evaluation.metrics import Floats, Integers
from leantune.inference.load import artefact_of, load, require_run
from leantune.training.after.calibration_data import rows_to_measure

CALIBRATION_SHARE = 0.25
"""Share of the rows that fit the temperature. The others choose the thresholds: with the same rows for both, thresholds
would be chosen on probabilities that have seen the labels."""
LEAST_CALIBRATION_ROWS = 20
STARTS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
"""Shares of the most confident rows at which tests begin: few rows prove nothing, and a single start there would stop.
"""
GRID = np.concatenate([[0.0], 1 / (1 + np.exp(-np.linspace(-4, 12, 321)))])
"""Thresholds that are tested, denser towards 1; chosen before any row is seen."""


def abstain(
    run: Path, data: str | None = None, *, precision: float, confidence: float, **columns: str | None
) -> Abstention:
    """Choose thresholds on labelled rows and write them beside the weights of a run.

    Args:
        run: the run folder.
        data: a file of labelled rows that were not trained on; None: the validation rows of the run.
        precision: share of answers that must be right.
        confidence: probability that a threshold keeps the precision.
        columns: names of columns of ``data`` that differ from those of training.

    Raises:
        UsageError: if ``run`` is no run.
        DataError: if there are too few rows, or a row may have several labels.
        CheckpointError: if the run is damaged.
    """
    require_run(run)
    rows, name = rows_to_measure(run, data, **columns)
    trained = load(run)
    require_one_label(trained.labels.is_multi_label, "leantune abstain")
    chosen = choose_abstention(
        trained.probabilities(rows.encoded(), trained.settings.batch_size, start=0),
        rows.label_ids,
        trained.labels.names,
        precision=precision,
        confidence=confidence,
        source=name,
    )
    for part in ("adapter", "merged"):
        write_abstention(artefact_of(run, part), chosen)
    return chosen


def choose_abstention(
    probabilities_NC: Floats,
    label_ids_N: Integers,
    names: Sequence[str],
    *,
    precision: float,
    confidence: float,
    source: str,
    seed: int = 0,
) -> Abstention:
    """Choose the temperature and the thresholds for a given precision.

    Args:
        probabilities_NC: probabilities of rows not used for training, ``(N, C)``.
        label_ids_N: class ids of the rows, ``(N,)``.
        names: names of the classes.
        precision: required share of correct answers among the answers given.
        confidence: probability that the precision is kept, for each threshold on its own.
        source: name of the rows, which is written to the file.
        seed: seed for choosing the rows that fit the temperature.

    Raises:
        DataError: if there are too few rows.
    """
    count = max(LEAST_CALIBRATION_ROWS, round(CALIBRATION_SHARE * len(label_ids_N)))
    if len(label_ids_N) < 2 * LEAST_CALIBRATION_ROWS:
        raise DataError(
            f"{len(label_ids_N)} rows, expected at least {2 * LEAST_CALIBRATION_ROWS} rows to choose a threshold",
            path=source,
        )
    order = np.random.default_rng(seed).permutation(len(label_ids_N))
    fitting, choosing = order[:count], order[count:]
    temperature = fit_temperature(probabilities_NC[fitting], label_ids_N[fitting])
    calibrated = with_temperature(probabilities_NC[choosing], temperature)
    predicted, top = calibrated.argmax(axis=1), calibrated.max(axis=1)
    is_right = predicted == label_ids_N[choosing]
    per_class = {
        name: threshold_for(
            top[predicted == i], is_right[predicted == i], precision=precision, confidence=confidence
        )
        for i, name in enumerate(names)
    }
    return Abstention(
        precision=precision,
        confidence=confidence,
        temperature=temperature,
        source=source,
        overall=threshold_for(top, is_right, precision=precision, confidence=confidence),
        per_class={name: found for name, found in per_class.items() if found is not None},
    )


def threshold_for(
    confidence_N: Floats, is_right_N: npt.NDArray[np.bool_], *, precision: float, confidence: float
) -> Threshold | None:
    """Return the lowest threshold that is shown to keep ``precision``, or None if there is none.

    Args:
        confidence_N: probability of each predicted class, ``(N,)``.
        is_right_N: whether each prediction is correct, ``(N,)``.
        precision: required share of correct answers.
        confidence: 1 minus the probability of choosing a threshold that does not keep the precision.
    """
    if not len(confidence_N):
        return None
    from scipy.stats import binom

    order = np.argsort(-confidence_N, kind="stable")
    ranked, errors = confidence_N[order], np.concatenate([[0], np.cumsum(~is_right_N[order])])
    grid = GRID[::-1]  # from high to low
    accepted = np.searchsorted(-ranked, -grid, side="right")  # rows at or above each threshold
    p_values = np.where(accepted > 0, binom.cdf(errors[accepted], accepted, 1 - precision), 1.0)
    best = -1
    for share in STARTS:
        first = int(np.searchsorted(accepted, np.ceil(share * len(ranked))))
        for i in range(first, len(grid)):
            if p_values[i] > (1 - confidence) / len(STARTS):
                break
            best = max(best, i)
    if best < 0:
        return None
    rows = int(accepted[best])
    return Threshold(
        least=float(grid[best]),
        rows=len(ranked),
        coverage=rows / len(ranked),
        precision=float(1 - errors[rows] / rows),
    )


def least_predictions(precision: float, confidence: float) -> int:
    """Return the number of predictions that a threshold needs, all of them right, to keep ``precision``.

    >>> least_predictions(0.98, 0.95), least_predictions(0.9, 0.95)
    (237, 46)
    """
    return math.ceil(math.log((1 - confidence) / len(STARTS)) / math.log(precision))


def fit_temperature(probabilities_NC: Floats, label_ids_N: Integers) -> float:
    """Return the temperature with the lowest log loss.

    See Guo, Pleiss, Sun and Weinberger, 2017, On Calibration of Modern Neural Networks, section 4.2.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(label_ids_N))

    def log_loss(log_temperature: float) -> float:
        scaled = with_temperature(probabilities_NC, float(np.exp(log_temperature)))
        return float(-np.log(np.maximum(scaled[rows, label_ids_N], 1e-300)).mean())

    return float(np.exp(minimize_scalar(log_loss, bounds=(-3, 3), method="bounded").x))
