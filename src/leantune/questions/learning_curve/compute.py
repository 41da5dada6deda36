"""Learning curve: accuracy on held-out rows by number of training rows, extrapolated by a power law.

Subsets of the training rows are nested and stratified by class. On each, a classifier is trained like a run on that
many rows, without writing files. The error is fitted by a power law, a + b n^-c (Hestness et al., 2017, Deep Learning
Scaling is Predictable, Empirically, arXiv 1712.00409, equation 1), weighted by the binomial variance of each point. The
interval comes from fits to resampled errors. They vary with the sampling of the held-out rows and, beyond that, with
the residual scatter of the points, because trainings differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from rich.console import Console

from leantune.config import Recipe
from leantune.data.label_sets import require_one_label
from leantune.data.split import nested_order
from leantune.errors import DataError
from leantune.evaluation.batches import predict_probabilities
from leantune.training.before.defaults import with_pace
from leantune.training.build import prepare_run
from leantune.training.trial import on_rows, trained

POINTS = 5
"""Largest number of subsets. The last one contains all rows, and each earlier one half as many."""
LEAST_ROWS, LEAST_OF_A_CLASS = 32, 2
REDRAWN = 300
"""Number of fits from which the interval is computed."""
EXPONENTS = np.linspace(0.1, 1.5, 57)
"""Candidate exponents of the power law, which cover the published ones of text classifiers."""
LEVEL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Measured accuracy for a number of training rows."""

    rows: int
    accuracy: float
    held_out: int
    """Number of rows on which the accuracy was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Forecast accuracy for a number of rows, with a 90 % interval."""

    rows: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Error with n rows: ``floor + scale * n ** -exponent``."""

    floor: float
    scale: float
    exponent: float

    def accuracy(self, rows: float) -> float:
        """Return the accuracy for a number of training rows."""
        return 1 - (self.floor + self.scale * math.exp(-self.exponent * math.log(rows)))

    def rows_until(self, accuracy: float) -> float:
        """Return the number of training rows for an accuracy; infinite if the curve never reaches it."""
        gap = 1 - accuracy - self.floor
        if gap <= 0:
            return math.inf
        return (self.scale / gap) ** (1 / self.exponent) if self.scale > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """Measured points and the curves fitted to them."""

    points: tuple[Point, ...]
    fitted: PowerLaw
    redrawn: tuple[PowerLaw, ...]
    """Curves fitted to resampled errors."""
    noise: tuple[float, ...]
    """Random deviation of a single training from each curve in ``redrawn``."""

    def forecast(self, rows: int) -> Forecast:
        """Return the forecast for a number of training rows."""
        drawn = zip(self.redrawn, self.noise, strict=True)
        low, high = self._interval([law.accuracy(rows) + noise for law, noise in drawn])
        return Forecast(rows=rows, accuracy=self.fitted.accuracy(rows), low=low, high=high)

    def rows_until(self, accuracy: float) -> tuple[float, float, float]:
        """Return the number of rows for an accuracy and the ends of its 90 % interval; infinite if out of reach."""
        low, high = self._interval([each.rows_until(accuracy) for each in self.redrawn])
        return self.fitted.rows_until(accuracy), low, high

    @staticmethod
    def _interval(values: Sequence[float]) -> tuple[float, float]:
        ordered = sorted(values)
        cut = round((1 - LEVEL) / 2 * (len(ordered) - 1))
        return ordered[cut], ordered[len(ordered) - 1 - cut]


def learning_curve(
    recipe: Recipe, *, console: Console, on_point: Callable[[Point], None] = lambda point: None
) -> LearningCurve:
    """Train on subsets of a recipe's rows, which takes about twice as long as a run.

    Args:
        recipe: the recipe of a run. Its epochs and learning rate, if set, apply to every subset.
        console: console for messages.
        on_point: called after each measurement.

    Raises:
        DataError: if there are too few rows, or no rows are held out.
        LeantuneError: see `leantune.training.run.run_training`.
    """
    run = prepare_run(recipe, console=console, overwrite=False, resume=False)
    require_one_label(run.data.labels.is_multi_label, "leantune learning-curve")
    rows, held_out = run.data.train, run.data.validation
    sizes = subset_sizes(len(rows), len(run.data.labels.names))
    if len(sizes) < 3 or not len(held_out):
        raise DataError(
            f"{len(rows):,} training and {len(held_out):,} held-out rows are too few for a learning curve of at least "
            "three subsets: add training rows, or pass validation=FILE",
            path=recipe.data,
        )
    order = nested_order(rows.label_ids, seed=recipe.seed)
    asked = replace(run.recipe, epochs=recipe.epochs, learning_rate=recipe.learning_rate)
    points = []
    for number, size in enumerate(sizes, start=1):
        pace = with_pace(asked, run.pretrained.config, size)
        trial = on_rows(run, pace, rows[np.sort(order[:size])])
        probabilities = predict_probabilities(
            trained(trial, f"subset {number} of {len(sizes)}"), held_out, recipe.eval_batch_size
        )
        accuracy = float((probabilities.argmax(axis=1) == held_out.label_ids).mean())
        points.append(Point(rows=size, accuracy=accuracy, held_out=len(held_out)))
        on_point(points[-1])
    return fit_curve(points, seed=recipe.seed)


def subset_sizes(rows: int, classes: int) -> list[int]:
    """Return the sizes of the subsets in ascending order.

    >>> subset_sizes(9000, 4), subset_sizes(100, 4)
    ([562, 1125, 2250, 4500, 9000], [50, 100])
    """
    least = max(LEAST_ROWS, LEAST_OF_A_CLASS * classes)
    return [size for size in (rows // 2**i for i in reversed(range(POINTS))) if size >= least]


def fit_curve(points: Sequence[Point], *, seed: int = 0) -> LearningCurve:
    """Fit a power law to the points and to resampled errors."""
    rng = np.random.default_rng([seed, 0xC0DE])
    rows = np.array([point.rows for point in points], dtype=np.float64)
    held_out = np.array([point.held_out for point in points])
    errors = np.array([1 - point.accuracy for point in points])
    fitted = _fit(rows, errors, held_out)
    scatter = _scatter(errors, np.array([1 - fitted.accuracy(n) for n in rows]), held_out)

    def redrawn_errors() -> npt.NDArray[np.float64]:
        by_chance = rng.binomial(held_out, errors) / held_out
        return np.asarray(np.clip(by_chance + rng.normal(0, scatter, len(rows)), 0, 1))

    return LearningCurve(
        points=tuple(points),
        fitted=fitted,
        redrawn=tuple(_fit(rows, redrawn_errors(), held_out) for _ in range(REDRAWN)),
        noise=tuple(rng.normal(0, scatter, REDRAWN).tolist()),
    )


def _scatter(
    errors: npt.NDArray[np.float64], fitted: npt.NDArray[np.float64], held_out: npt.NDArray[np.int64]
) -> float:
    """Return the standard deviation of the points around the curve, without its binomial part."""
    residual = float(((errors - fitted) ** 2).sum()) / max(1, len(errors) - 2)
    return math.sqrt(max(0.0, residual - float((errors * (1 - errors) / held_out).mean())))


def _fit(
    rows: npt.NDArray[np.float64], errors: npt.NDArray[np.float64], held_out: npt.NDArray[np.int64]
) -> PowerLaw:
    """Fit by weighted least squares: for each exponent, solve linearly for non-negative floor and scale."""
    from scipy.optimize import nnls

    smoothed = (errors * held_out + 1) / (held_out + 2)
    weights = np.sqrt(held_out / (smoothed * (1 - smoothed)))
    best, least = PowerLaw(float(errors.min()), 0.0, 1.0), math.inf
    for exponent in EXPONENTS:
        design = np.stack([np.ones_like(rows), rows**-exponent], axis=1)
        (floor, scale), distance = nnls(design * weights[:, None], errors * weights)
        if distance < least:
            best, least = PowerLaw(float(floor), float(scale), float(exponent)), distance
    return best
