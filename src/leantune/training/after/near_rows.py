"""The nearest training rows of wrong predictions, found at the end of a run.

Computing vectors of training rows costs a forward pass, about a third of training on them. If there are many rows,
only a stratified sample is searched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from leantune.data.split import nested_order
from leantune.data.tokens.dataset import Index, LabelledRows
from leantune.evaluation.batches import map_rows
from leantune.evaluation.nearest import Vectors, nearest
from leantune.model.classifier import Classifier
from leantune.training.build import Run

NEAREST = 3
LEAST_ROWS = 1000
"""Smallest number of rows to search."""
SHARE = 1 / 16
"""Share of the rows seen in all steps to search, if that is more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """The K nearest training rows of each of Q queries, for every part."""

    rows: LabelledRows
    """The rows that were searched."""
    found: Mapping[str, tuple[Index, Vectors]]
    """By part: positions in ``rows`` and cosines, each ``(Q, K)``."""

    def positions(self) -> Index:
        """Positions of all rows that are near to some query, each once."""
        return np.unique(np.concatenate([positions.reshape(-1) for positions, _ in self.found.values()]))


def find_near(
    run: Run, classifier: Classifier, train: LabelledRows, queries: Mapping[str, LabelledRows]
) -> Near | None:
    """Find the training rows nearest to some rows.

    Args:
        run: its recipe and steps decide how many rows are searched.
        classifier: the trained classifier.
        train: training rows.
        queries: rows to find neighbours of, by part.

    Returns:
        the neighbours; None without queries.
    """
    queries = {part: rows for part, rows in queries.items() if len(rows)}
    if not queries:
        return None
    rows = rows_to_search(train, run.steps.total_steps * run.recipe.batch_size, seed=run.recipe.seed)

    def features(of: LabelledRows) -> Vectors:
        return map_rows(classifier, of, run.recipe.eval_batch_size, classifier.features)

    vectors = features(rows)
    return Near(
        rows=rows, found={part: nearest(features(each), vectors, NEAREST) for part, each in queries.items()}
    )


def rows_to_search(rows: LabelledRows, trained_rows: int, *, seed: int) -> LabelledRows:
    """Return ``rows``, or a stratified sample of them.

    Args:
        rows: training rows.
        trained_rows: rows seen in all steps, counting repeats.
        seed: seed of the sample.
    """
    limit = max(LEAST_ROWS, round(SHARE * trained_rows))
    return rows if len(rows) <= limit else rows[np.sort(nested_order(rows.label_ids, seed=seed)[:limit])]
