"""A classifier without an encoder, to compare with: a linear SVM on the words of the texts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from leantune.config.record.run import Rates, WordBaselineRecord
from leantune.data.text.read import ExampleSource
from leantune.data.tokens.dataset import Index, LabelledRows
from leantune.evaluation.tasks import task_of
from leantune.system import distributed
from leantune.system.json_files import from_json
from leantune.training.build import Run

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

NAME = "SVM on words"
WORDS = r"(?u)\w+|[^\w\s]"
"""A word, or a single sign: a text that is not blank has at least one of the two."""
MAX_ROWS = 50_000
"""Number of training rows that the words are counted in; more would take longer than the comparison is worth."""


def measure_words(run: Run) -> None:
    """Fit a linear SVM to the TF-IDF of words and pairs of words, and record its rates.

    It needs seconds and reads whole texts, which an encoder cuts: what fine-tuning gains over it is what the encoder
    is worth. Standard input cannot be read again, so such a run has no word baseline.
    """
    rows = run.data.train
    if "-" in (run.recipe.data, run.recipe.validation, run.recipe.test) or not distributed.is_main():
        return
    started = time.perf_counter()
    with run.console.status("fitting a linear SVM on words"):
        own = np.flatnonzero(rows.table_of == 0)  # without pseudo-labelled rows
        order = np.random.default_rng([run.recipe.seed, 0x30D5]).permutation(own)
        rows = rows[np.sort(order[:MAX_ROWS])]
        words = _fitted(run, rows)
        if words is None:
            return
        sources = run.data.sources
        validation = _rates(run, words, sources.get("validation", sources["train"]), run.data.validation)
        test = None if run.data.test is None else _rates(run, words, sources["test"], run.data.test)
    run.record.word_baseline = WordBaselineRecord(
        name=NAME,
        rows=len(rows),
        seconds=time.perf_counter() - started,
        validation=validation,
        test=test,
    )


@dataclass(frozen=True, slots=True)
class _Words:
    pipeline: Pipeline
    class_ids: Index
    """``(K,)`` classes that it tells apart."""


def _fitted(run: Run, rows: LabelledRows) -> _Words | None:
    """Fit to the classes that have rows; None if fewer than two have."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    labels, svm = rows.label_ids, LinearSVC(random_state=run.recipe.seed)
    if rows.is_multi_label:
        class_ids = np.flatnonzero(labels.min(axis=0) != labels.max(axis=0))
        labels, svm = labels[:, class_ids], OneVsRestClassifier(svm)
    else:
        class_ids = np.unique(labels)
    if len(class_ids) < 2:
        return None
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=WORDS)
    fitted = make_pipeline(words, svm).fit(list(_texts(run.data.sources["train"], rows.row_of)), labels)
    return _Words(fitted, class_ids)


def _texts(source: ExampleSource, wanted: Index) -> Iterator[str]:
    """Texts of the rows ``wanted``, in ascending order; the two texts of a pair are one."""
    for batch in source.batches():
        first, last = np.searchsorted(wanted, (batch.start, batch.start + len(batch.texts)))
        for at in (wanted[first:last] - batch.start).tolist():
            yield f"{batch.texts[at]} {batch.pairs[at]}" if batch.pairs else batch.texts[at]


def _rates(run: Run, words: _Words, source: ExampleSource, rows: LabelledRows) -> Rates | None:
    """Measure on ``rows``; None if there are none."""
    if not len(rows):
        return None
    rows, names = rows[np.argsort(rows.row_of)], run.data.labels.names
    scores = words.pipeline.decision_function(list(_texts(source, rows.row_of)))
    if scores.ndim == 1:
        scores = np.stack([-scores, scores], axis=1)
    logits = np.full((len(rows), len(names)), scores.min() - 1, dtype=np.float32)
    logits[:, words.class_ids] = scores
    task = task_of(is_multi_label=rows.is_multi_label)
    half = np.full(len(names), 0.5)  # the probability of a score of 0
    metrics = task.evaluate(task.probabilities(logits), rows.label_ids, names, half)
    return from_json(metrics.to_json(), Rates)
