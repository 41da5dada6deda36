"""Search for wrong labels: each row is predicted by a classifier that was not trained on it.

The rows are divided into folds. For each fold, a classifier is trained on the other folds and predicts this one. It is
trained for fewer epochs than a run and with ``loss=robust``, which limits the influence of wrong labels. All
classifiers share the tokenized rows and the encoder.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from rich.console import Console

from leantune.config import Recipe
from leantune.data.label_sets import numbered
from leantune.data.tokens.dataset import Index, LabelledRows
from leantune.errors import DataError
from leantune.evaluation.batches import predict_probabilities
from leantune.training.build import Run, prepare_run
from leantune.training.history import preparing
from leantune.training.trial import on_rows, trained

SHARE = 3
"""Divisor of the run's number of epochs. Later epochs would memorise wrong labels."""
LEAST_ROWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Labelled rows in file order with out-of-fold predictions."""

    run: Run
    rows: LabelledRows
    names: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    """Out-of-fold probabilities, ``(N, C)``."""

    @property
    def likely(self) -> Index:
        """The most probable class of each row, ``(N,)``."""
        likely: Index = self.probabilities.argmax(axis=1)
        return likely

    @property
    def score(self) -> npt.NDArray[np.float64]:
        """Score of each label from -1 to 1, ``(N,)``; wrong labels have high scores.

        The score is the probability of the most probable other class minus the probability of the label: the negative
        normalised margin of Northcutt, Jiang and Chuang, 2021, Confident Learning, section 3.2.
        """
        own = np.arange(len(self.rows)), self.rows.label_ids
        others = self.probabilities.copy()
        others[own] = -1
        score: npt.NDArray[np.float64] = others.max(axis=1) - self.probabilities[own]
        return score

    @property
    def suspects(self) -> Index:
        """Positions of the rows whose label is not the most probable class, in descending order of score."""
        order: Index = np.argsort(-self.score, kind="stable")
        suspects: Index = order[self.likely[order] != self.rows.label_ids[order]]
        return suspects

    @property
    def pair_scores(self) -> npt.NDArray[np.float64]:
        """Scores from -1 to 1 for multi-label rows, ``(N, C)``.

        A score is the probability that a label is wrongly given or wrongly missing, minus the probability that it is
        correct.
        """
        score: npt.NDArray[np.float64] = (1 - 2 * self.probabilities) * (2 * self.rows.label_ids - 1)
        return score

    def confusion(self) -> Iterator[tuple[str, str, int]]:
        """Yield label, most probable class and number of rows where the two differ, most rows first."""
        size = len(self.names)
        counts = np.bincount(self.rows.label_ids * size + self.likely, minlength=size * size)
        for pair in np.argsort(-counts, kind="stable"):
            label, likely = divmod(int(pair), size)
            if label != likely and counts[pair]:
                yield self.names[label], self.names[likely], int(counts[pair])


def audit(
    recipe: Recipe, *, folds: int, console: Console, on_fold: Callable[[int], None] = lambda fold: None
) -> Audit:
    """Predict all labelled rows of ``recipe.data`` out of fold.

    Args:
        recipe: rows, encoder and parameter limit; ``output`` must not exist.
        folds: number of classifiers to train.
        console: console for messages.
        on_fold: called after each fold.

    Raises:
        DataError: if there are too few rows.
        LeantuneError: see `leantune.training.run.run_training`.
    """
    run = prepare_run(recipe, console=console, overwrite=False, resume=False)
    if not run.data.labels.is_multi_label:  # the robust loss does not exist for several labels per text
        run.recipe = replace(run.recipe, loss="robust")
    rows = run.data.train + run.data.validation
    rows = rows[np.argsort(rows.row_of, kind="stable")]
    if len(rows) < max(LEAST_ROWS, 2 * folds):
        raise DataError(
            f"{len(rows)} rows, expected at least {max(LEAST_ROWS, 2 * folds)} rows for an audit: check so few labels "
            "by hand",
            path=recipe.data,
        )
    assert run.recipe.epochs is not None, "prepare_run sets it"
    short = replace(run.recipe, epochs=max(1, round(run.recipe.epochs / SHARE)))
    fold_of = folds_of(rows, folds, seed=recipe.seed)
    probabilities = np.empty((len(rows), len(run.data.labels.names)))
    for fold in range(folds):
        held_out = np.flatnonzero(fold_of == fold)
        trial = on_rows(run, short, rows[np.flatnonzero(fold_of != fold)])
        classifier = trained(trial, f"fold {fold + 1} of {folds}")
        with preparing(run.console, f"fold {fold + 1} of {folds}: classifying"):
            probabilities[held_out] = predict_probabilities(
                classifier, rows[held_out], recipe.eval_batch_size
            )
        on_fold(fold)
    return Audit(run=run, rows=rows, names=run.data.labels.names, probabilities=probabilities)


def folds_of(rows: LabelledRows, folds: int, *, seed: int) -> Index:
    """Return the fold of each row, ``(N,)``.

    Folds are stratified by class. Rows with equal texts are in one fold, because one would reveal the other's label.
    """
    rng = np.random.default_rng([seed, 0xA0D1])
    _, first, group_of = np.unique(rows.hashes(), return_index=True, return_inverse=True)
    fold_of_group = np.empty(len(first), dtype=np.int64)
    labels = numbered(rows.label_ids[first])
    start = 0
    for label in np.unique(labels):
        groups = rng.permutation(np.flatnonzero(labels == label))
        fold_of_group[groups] = (start + np.arange(len(groups))) % folds
        start += len(groups)
    return fold_of_group[group_of.reshape(-1)]
