"""Which labels are wrong: every row is classified by a classifier that has not seen it, and compared with its label.

The rows are cut into folds. For each fold a classifier is trained on the others, for a share of the steps of a whole
run and with the loss that wrong labels pull at least (``loss=robust``), and classifies this fold. All share tokens and
the encoder's files.

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
from leantune.training.trial import on_rows, trained

SHARE = 3
"""A fold is trained for one of so many epochs of a run: later epochs learn wrong labels by heart."""
LEAST_ROWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """N labelled rows in the order of their file, and what classifiers that have not seen them say."""

    run: Run
    rows: LabelledRows
    names: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    """``(N, C)``, out of fold."""

    @property
    def likely(self) -> Index:
        """``(N,)`` the most probable class."""
        likely: Index = self.probabilities.argmax(axis=1)
        return likely

    @property
    def score(self) -> npt.NDArray[np.float64]:
        """``(N,)`` from -1 to 1: probability of the most probable other class less that of the label; a label that is
        wrong has a high one (the normalised margin of Northcutt, Jiang and Chuang, 2021, Confident Learning, section
        3.2, with the other sign).
        """
        own = np.arange(len(self.rows)), self.rows.label_ids
        others = self.probabilities.copy()
        others[own] = -1
        score: npt.NDArray[np.float64] = others.max(axis=1) - self.probabilities[own]
        return score

    @property
    def suspects(self) -> Index:
        """Positions of the rows whose label is not the likely class, the most suspect first."""
        order: Index = np.argsort(-self.score, kind="stable")
        suspects: Index = order[self.likely[order] != self.rows.label_ids[order]]
        return suspects

    @property
    def pair_scores(self) -> npt.NDArray[np.float64]:
        """``(N, C)`` from -1 to 1, of rows with several labels each: how much more probable it is that a label is
        wrongly there, or wrongly not, than that it is right.
        """
        score: npt.NDArray[np.float64] = (1 - 2 * self.probabilities) * (2 * self.rows.label_ids - 1)
        return score

    def confusion(self) -> Iterator[tuple[str, str, int]]:
        """Label, likely class and number of rows, for all pairs in which they differ, most rows first."""
        size = len(self.names)
        counts = np.bincount(self.rows.label_ids * size + self.likely, minlength=size * size)
        for pair in np.argsort(-counts, kind="stable"):
            label, likely = divmod(int(pair), size)
            if label != likely and counts[pair]:
                yield self.names[label], self.names[likely], int(counts[pair])


def audit(
    recipe: Recipe, *, folds: int, console: Console, on_fold: Callable[[int], None] = lambda fold: None
) -> Audit:
    """Classify all labelled rows of ``recipe.data`` out of fold.

    Args:
        recipe: rows, encoder, limit; ``output`` is where nothing is written yet.
        folds: classifiers that are trained.
        console: where to say what is done.
        on_fold: called after each fold.

    Raises:
        DataError: if there are too few rows.
        LeantuneError: as `leantune.training.run.run_training`.
    """
    run = prepare_run(recipe, console=console, overwrite=False, resume=False)
    if not run.data.labels.is_multi_label:  # for several labels a text there is no such loss
        run.recipe = replace(run.recipe, loss="robust")
    rows = run.data.train + run.data.validation
    rows = rows[np.argsort(rows.row_of, kind="stable")]
    if len(rows) < max(LEAST_ROWS, 2 * folds):
        raise DataError(
            f"{len(rows)} rows, expected {max(LEAST_ROWS, 2 * folds)} or more: look at each yourself",
            path=recipe.data,
        )
    assert run.recipe.epochs is not None, "prepare_run sets it"
    short = replace(run.recipe, epochs=max(1, round(run.recipe.epochs / SHARE)))
    fold_of = folds_of(rows, folds, seed=recipe.seed)
    probabilities = np.empty((len(rows), len(run.data.labels.names)))
    for fold in range(folds):
        held_out = np.flatnonzero(fold_of == fold)
        trial = on_rows(run, short, rows[np.flatnonzero(fold_of != fold)])
        probabilities[held_out] = predict_probabilities(
            trained(trial), rows[held_out], recipe.eval_batch_size
        )
        on_fold(fold)
    return Audit(run=run, rows=rows, names=run.data.labels.names, probabilities=probabilities)


def folds_of(rows: LabelledRows, folds: int, *, seed: int) -> Index:
    """``(N,)`` the fold of each row: each class in proportion, and rows with equal texts together, since one would give
    away the label of the other.
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
