"""Accuracy on held-out rows by number of trainable parameters, from a linear probe to full fine-tuning.

The largest classifier is trained like a run. Each smaller one is pruned from a larger one and fine-tuned briefly: the
update is replaced by its best approximation of half the rank, the head is reduced to its output layer, or adapters are
kept only in query and value. All share rows, tokens and the linear probe. Full fine-tuning takes a share of the steps,
because each of its steps costs as much as several LoRA steps.

Shapes: N held-out rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from leantune.config import Recipe
from leantune.config.frontier_file import FrontierRecord, PointRecord
from leantune.errors import DataError, UsageError
from leantune.evaluation.batches import predict_probabilities
from leantune.evaluation.intervals import Interval, wilson_interval
from leantune.evaluation.tasks import task_of
from leantune.model.build import load_pretrained, missing_head_modules, reinitialise_head
from leantune.model.classifier import Classifier
from leantune.questions.frontier.sizes import Weights, cut, largest, parent_of, rungs_of
from leantune.system.hardware import DTYPES
from leantune.training.before.head_init import PROBE_SCALE, scale_output_layer
from leantune.training.before.placement import name_of
from leantune.training.before.starts import start_adapters, start_head
from leantune.training.build import Run, build_classifier, prepare_run
from leantune.training.history import preparing
from leantune.training.trial import on_rows
from leantune.training.tuning import tune

TUNED = 1 / 4
"""Largest share of a run's steps for fine-tuning each pruned classifier."""
ALL_TUNED = 7 / 4
"""Largest number of steps for fine-tuning all pruned classifiers together, in multiples of a run's steps."""
FULL = 3
"""Divisor of a run's number of steps for full fine-tuning."""
FULL_RATIO = 1 / 30
"""Learning rate of full fine-tuning relative to the learning rate of A and B."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A measured classifier."""

    name: str
    parameters: int
    """Number of trainable parameters."""
    seconds: float
    """Estimated training seconds of a full run, from measured step times; measured seconds for the probe."""
    is_right: npt.NDArray[np.bool_]
    """Whether each held-out row is predicted correctly, ``(N,)``; with several labels, all of them must match."""
    recipe: Recipe | None = None
    """Recipe that trains the classifier; None for the probe and for full fine-tuning."""

    @property
    def accuracy(self) -> float:
        """Accuracy on the held-out rows."""
        return float(self.is_right.mean())

    @property
    def interval(self) -> Interval:
        """95 % interval of the accuracy (Wilson)."""
        return wilson_interval(int(self.is_right.sum()), len(self.is_right))

    def to_record(self) -> PointRecord:
        """Return the point as an entry of ``frontier.json``."""
        return PointRecord(
            name=self.name,
            parameters=self.parameters,
            bytes=4 * self.parameters,
            accuracy=self.accuracy,
            accuracy_interval=self.interval.to_json(),
            seconds=self.seconds,
            is_recipe=self.recipe is not None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """Classifiers from the smallest to the largest."""

    points: tuple[Point, ...]
    seconds: float
    """Seconds for measuring the whole frontier."""
    seconds_of_a_run: float
    """Seconds for the largest classifier alone, including reading and tokenization."""

    @property
    def best(self) -> Point:
        """The most accurate classifier; the smaller one if accuracies are equal."""
        return max(self.points, key=lambda point: point.accuracy)

    @property
    def smallest(self) -> Point:
        """The smallest classifier with a recipe whose accuracy is within one standard error of the best.

        The standard error is the error of the difference in accuracy on the same rows. For the rule, see Breiman et
        al., 1984, Classification and Regression Trees, section 3.4.3.
        """
        best = self.best
        enough = (
            p for p in self.points if p.recipe is not None and is_within_error(p.is_right, best.is_right)
        )
        return next(enough, max((p for p in self.points if p.recipe is not None), key=lambda p: p.accuracy))

    def to_record(self) -> FrontierRecord:
        """Return the content of ``frontier.json``."""
        return FrontierRecord(
            points=[point.to_record() for point in self.points],
            best=self.best.name,
            smallest=self.smallest.name,
            held_out=len(self.best.is_right),
            seconds=self.seconds,
            seconds_of_a_run=self.seconds_of_a_run,
        )


def is_within_error(is_right: npt.NDArray[np.bool_], best: npt.NDArray[np.bool_]) -> bool:
    """Return whether the first accuracy is lower than the second by at most one standard error of the difference.

    >>> a, b = np.array([True, False, True, True]), np.array([True, True, False, True])
    >>> is_within_error(a, b), is_within_error(np.zeros(4, dtype=bool), np.ones(4, dtype=bool))
    (True, False)
    """
    gaps = best.astype(np.float64) - is_right
    return bool(gaps.mean() <= gaps.std(ddof=1) / math.sqrt(len(gaps)))


def frontier(
    recipe: Recipe,
    *,
    console: Console,
    with_full: bool = True,
    on_point: Callable[[Point], None] = lambda point: None,
) -> Frontier:
    """Measure classifiers of many sizes in the time of two to three runs.

    Args:
        recipe: rows and encoder. A parameter limit applies to the largest classifier. Its ``output`` must not exist.
        console: console for messages.
        with_full: whether to include full fine-tuning.
        on_point: called after each measurement.

    Raises:
        UsageError: if the recipe sets a method that a frontier does not support.
        DataError: if no rows are held out.
        LeantuneError: see `leantune.training.run.run_training`.
    """
    if recipe.method == "adalora":
        raise UsageError(
            "method=adalora: a frontier compares LoRA with equal ranks in all layers; remove method from the recipe"
        )
    started = time.perf_counter()
    run = prepare_run(largest(recipe), console=console, overwrite=False, resume=False)
    if len(run.data.validation) < 2:
        raise DataError(
            "no rows are held out for validation: add training rows, or pass validation=FILE",
            path=recipe.data,
        )
    points: list[Point] = []

    def add(point: Point) -> None:
        points.append(point)
        on_point(point)

    classifier, untrained = _begin(run, add)
    rungs = rungs_of(run)
    trained: list[tuple[Recipe, Weights]] = []
    share = tuned_share(len(rungs) - 1)
    for number, rung in enumerate(rungs, start=1):
        trial = on_rows(run, rung, run.data.train)
        steps = trial.steps.total_steps
        if trained:
            cut(classifier, trial, parent_of(rung, trained), untrained)
            steps = max(1, int(share * steps))
        assert classifier.num_trainable() == trial.plan.initial, "the plan and the trained parameters differ"
        seconds = _seconds_of_a_run(
            trial, classifier, steps=steps, turn=len(trained), what=f"size {number} of {len(rungs)}"
        )
        add(
            _measured(
                trial,
                classifier,
                name_of(trial.recipe, trial.plan.init_rank),
                trial.plan.initial,
                seconds,
                rung,
            )
        )
        trained.append((rung, Weights.of(classifier)))
        if len(trained) == 1:
            run_s = time.perf_counter() - started
    if with_full:
        add(_fully_tuned(run))
    ordered = sorted(points, key=lambda point: point.parameters)
    return Frontier(points=tuple(ordered), seconds=time.perf_counter() - started, seconds_of_a_run=run_s)


def tuned_share(num_cut: int) -> float:
    """Return the share of a run's steps for fine-tuning each of `num_cut` pruned classifiers.

    >>> tuned_share(7), tuned_share(14)
    (0.25, 0.125)
    """
    return min(TUNED, ALL_TUNED / max(1, num_cut))


def _begin(run: Run, add: Callable[[Point], None]) -> tuple[Classifier, Weights]:
    """Build the classifier of ``run`` and copy its initial weights. Measure the linear probe that it starts from."""
    classifier = build_classifier(run)
    if run.recipe.advanced.warm_start:
        begun = time.perf_counter()
        with preparing(run.console, "fitting the linear probe"):
            start_head(run, classifier)
        seconds = time.perf_counter() - begun
        size = sum(weight.numel() for weight in classifier.output_layer.parameters())
        add(_measured(run, classifier, "linear probe", size, seconds))
        if run.plan.targets:
            scale_output_layer(classifier, PROBE_SCALE)
    start_adapters(run, classifier)
    return classifier, Weights.of(classifier)


def _seconds_of_a_run(trial: Run, classifier: Classifier, *, steps: int, turn: int, what: str) -> float:
    """Train for some steps and return the estimated seconds of a full run."""
    seconds = tune(
        trial,
        classifier,
        trial.data.train,
        steps=steps,
        steps_per_epoch=trial.steps.steps_per_epoch,
        turn=turn,
        what=what,
    )
    return seconds / steps * trial.steps.total_steps


def _fully_tuned(run: Run) -> Point:
    """Fine-tune all weights in fp32, with matrix products in the run's precision."""
    advanced = replace(run.recipe.advanced, hidden_learning_rate_ratio=FULL_RATIO, lora_dropout=0.0)
    trial = replace(run, recipe=replace(run.recipe, advanced=advanced))
    classifier = load_pretrained(run.pretrained.with_dropout(advanced.dropout), run.data.labels)
    reinitialise_head(classifier, run.recipe.seed, missing_head_modules(run.pretrained))
    classifier.to(run.device).requires_grad_(True)
    precision = torch.autocast(
        run.device.type, DTYPES[run.precision], enabled=run.precision != "fp32", cache_enabled=False
    )
    steps = max(1, trial.steps.total_steps // FULL)
    with precision:
        if advanced.warm_start:
            start_head(trial, classifier)
            scale_output_layer(classifier, PROBE_SCALE)
        seconds = _seconds_of_a_run(trial, classifier, steps=steps, turn=0, what="full fine-tuning")
        return _measured(run, classifier, "full fine-tuning", classifier.num_trainable(), seconds)


def _measured(
    run: Run, classifier: Classifier, name: str, parameters: int, seconds: float, recipe: Recipe | None = None
) -> Point:
    rows = run.data.validation
    probabilities = predict_probabilities(classifier, rows, run.recipe.eval_batch_size)
    return Point(
        name=name,
        parameters=parameters,
        seconds=seconds,
        is_right=task_of(is_multi_label=rows.is_multi_label).is_right(probabilities, rows.label_ids),
        recipe=recipe,
    )
