"""How small can it be: accuracy on held-out rows against trainable parameters, from a linear probe to full fine-tuning.

One classifier is trained as a run is, with the most parameters. Every smaller one is cut from the one before it, and
tuned for a short while: ranks fall to the nearest update of half the rank, the head keeps its output layer alone, query
and value keep their adapters alone. Rows, tokens and the linear probe are shared. Full fine-tuning takes a share of the
steps, since each of its steps costs several of LoRA's.

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
from leantune.questions.frontier.sizes import Weights, cut, largest, name_of, parent_of, rungs_of
from leantune.system.hardware import DTYPES
from leantune.training.before.head_init import PROBE_SCALE, scale_output_layer
from leantune.training.before.starts import start_adapters, start_head
from leantune.training.build import Run, build_classifier, prepare_run
from leantune.training.trial import on_rows
from leantune.training.tuning import tune

TUNED = 1 / 4
"""A classifier that was cut is tuned for at most this share of the steps of a run."""
ALL_TUNED = 7 / 4
"""All that were cut are together tuned for at most the steps of so many runs, however many they are."""
FULL = 3
"""Full fine-tuning takes one of so many steps."""
FULL_RATIO = 1 / 30
"""Its learning rate over that of A and B."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A classifier of some size."""

    name: str
    parameters: int
    """Trainable ones."""
    seconds: float
    """That all steps of a run of it take, by the seconds of its steps here; of the probe what it took."""
    is_right: npt.NDArray[np.bool_]
    """``(N,)`` whether the class of each held-out row is found, or all of its labels and no other."""
    recipe: Recipe | None = None
    """That trains it; None for the probe and for full fine-tuning."""

    @property
    def accuracy(self) -> float:
        """On the held-out rows."""
        return float(self.is_right.mean())

    @property
    def interval(self) -> Interval:
        """95 % of the accuracy."""
        return wilson_interval(int(self.is_right.sum()), len(self.is_right))

    def to_record(self) -> PointRecord:
        """As ``frontier.json`` has it."""
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
    """That all of it took."""
    seconds_of_a_run: float
    """That the largest one would take by itself, reading and tokenising included."""

    @property
    def best(self) -> Point:
        """The most accurate; the smaller one of equals."""
        return max(self.points, key=lambda point: point.accuracy)

    @property
    def smallest(self) -> Point:
        """The smallest that a run trains and whose accuracy is within a standard error of the best (Breiman et al.,
        1984, Classification and Regression Trees, section 3.4.3). The error is of the difference, on the same rows.
        """
        best = self.best
        enough = (
            p for p in self.points if p.recipe is not None and is_within_error(p.is_right, best.is_right)
        )
        return next(enough, max((p for p in self.points if p.recipe is not None), key=lambda p: p.accuracy))

    def to_record(self) -> FrontierRecord:
        """As ``frontier.json`` has it."""
        return FrontierRecord(
            points=[point.to_record() for point in self.points],
            best=self.best.name,
            smallest=self.smallest.name,
            held_out=len(self.best.is_right),
            seconds=self.seconds,
            seconds_of_a_run=self.seconds_of_a_run,
        )


def is_within_error(is_right: npt.NDArray[np.bool_], best: npt.NDArray[np.bool_]) -> bool:
    """Whether the first falls short of the second by no more than a standard error of their difference.

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
        recipe: rows, encoder; the limit, if there is one, is that of the largest. Its ``output`` is where nothing is
            written yet.
        console: where to say what is done.
        with_full: whether to fine-tune all weights, too.
        on_point: called when one is measured.

    Raises:
        UsageError: if the recipe asks for what a frontier varies.
        DataError: if no row is held out.
        LeantuneError: as `leantune.training.run.run_training`.
    """
    if recipe.method == "adalora":
        raise UsageError("method=adalora: a frontier compares LoRA of one rank; leave method out")
    started = time.perf_counter()
    run = prepare_run(largest(recipe), console=console, overwrite=False, resume=False)
    if len(run.data.validation) < 2:
        raise DataError(
            "no rows are held out to measure on: give more rows, or others as validation=FILE",
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
    for rung in rungs:
        trial = on_rows(run, rung, run.data.train)
        steps = trial.steps.total_steps
        if trained:
            cut(classifier, trial, parent_of(rung, trained), untrained)
            steps = max(1, int(share * steps))
        assert classifier.num_trainable() == trial.plan.initial, "the plan and what is trained differ"
        seconds = _seconds_of_a_run(trial, classifier, steps=steps, turn=len(trained))
        add(_measured(trial, classifier, name_of(trial), trial.plan.initial, seconds, rung))
        trained.append((rung, Weights.of(classifier)))
        if len(trained) == 1:
            run_s = time.perf_counter() - started
    if with_full:
        add(_fully_tuned(run))
    ordered = sorted(points, key=lambda point: point.parameters)
    return Frontier(points=tuple(ordered), seconds=time.perf_counter() - started, seconds_of_a_run=run_s)


def tuned_share(num_cut: int) -> float:
    """The share of a run's steps that each of so many classifiers, cut from the largest, is tuned for.

    >>> tuned_share(7), tuned_share(14)
    (0.25, 0.125)
    """
    return min(TUNED, ALL_TUNED / max(1, num_cut))


def _begin(run: Run, add: Callable[[Point], None]) -> tuple[Classifier, Weights]:
    """The classifier of ``run`` before its first step and what is in it; the probe that it starts from is measured."""
    classifier = build_classifier(run)
    if run.recipe.advanced.warm_start:
        begun = time.perf_counter()
        start_head(run, classifier)
        seconds = time.perf_counter() - begun
        size = sum(weight.numel() for weight in classifier.output_layer.parameters())
        add(_measured(run, classifier, "linear probe", size, seconds))
        scale_output_layer(classifier, PROBE_SCALE)
    start_adapters(run, classifier)
    return classifier, Weights.of(classifier)


def _seconds_of_a_run(trial: Run, classifier: Classifier, *, steps: int, turn: int) -> float:
    """Train for some steps; returns the seconds that all steps of a run would take."""
    seconds = tune(
        trial,
        classifier,
        trial.data.train,
        steps=steps,
        steps_per_epoch=trial.steps.steps_per_epoch,
        turn=turn,
    )
    return seconds / steps * trial.steps.total_steps


def _fully_tuned(run: Run) -> Point:
    """All weights in fp32, products in the precision of the run."""
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
        seconds = _seconds_of_a_run(trial, classifier, steps=steps, turn=0)
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
