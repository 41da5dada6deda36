"""Comparison of every deployable form of a run with the measured classifier on the same labelled rows.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from leantune.data.label_sets import require_one_label
from leantune.data.labels import LabelMap
from leantune.data.text.read import ExampleSource
from leantune.data.text.unusable import usable_batches
from leantune.errors import CheckpointError, UsageError
from leantune.evaluation.comparison import Comparison, compare
from leantune.evaluation.intervals import Interval, mcnemar_p_value, wilson_interval
from leantune.evaluation.metrics import Floats, Integers
from leantune.inference.saved import read_saved
from leantune.inference.text_classifier import CHUNK_ROWS
from leantune.questions.passport.forms import Form, Predict, Texts, forms_of

JUDGED_ROWS = 20
"""Smallest number of rows of a class whose loss in accuracy can fail a form; smaller classes vary by chance."""
SINGLE_TEXTS, WARM_UP = 50, 5
"""Number of texts timed one by one, and of texts before them for warm-up."""
WARM_UP_ROWS = 256
"""Number of rows computed for warm-up before all rows are timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassChange:
    """Accuracy on the rows of one class, as measured and in another form."""

    label: str
    rows: int
    accuracy_as_measured: float
    accuracy: float
    p_value: float
    """Mid-p value of McNemar's test; the null hypothesis is that both err equally often."""

    @property
    def loss(self) -> float:
        """Decrease of the accuracy as a fraction."""
        return self.accuracy_as_measured - self.accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class FormReport:
    """Results of one form on all rows. Rates are fractions."""

    name: str
    accuracy: float
    accuracy_interval: Interval
    """95 % Wilson interval of the accuracy."""
    agreement: float
    """Share of rows with the same prediction as the measured classifier."""
    largest_difference: float
    """Largest absolute difference of a probability from the measured classifier."""
    comparison: Comparison
    """Comparison of the measured classifier (a) with this form (b)."""
    classes: tuple[ClassChange, ...]
    bytes: int | None
    single_text_ms: float
    """Median milliseconds for a single text."""
    texts_per_s: float

    def lost(self, limit: float) -> list[ClassChange]:
        """Return the classes with at least `JUDGED_ROWS` rows whose accuracy is lower by more than ``limit``."""
        return [each for each in self.classes if each.rows >= JUDGED_ROWS and each.loss > limit]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passport:
    """Results of all forms of a run."""

    data: str
    num_rows: int
    forms: tuple[FormReport, ...]
    """Results by form. The first form is the measured classifier."""
    absent: Mapping[str, str]
    """Reason for each form that is not available."""


def passport(run: Path, source: ExampleSource, *, url: str | None = None) -> Passport:
    """Classify all rows with every form of a run.

    Args:
        run: the run folder.
        source: labelled rows, which should not be training rows.
        url: URL of a server of the run; None for no server.

    Raises:
        DataError: if a row or a label is invalid, or the server returns an unknown label.
        CheckpointError: if the run or an export is damaged.
    """
    labels = read_saved(run).label_map
    require_one_label(labels.is_multi_label, "leantune passport")
    texts, pairs, label_ids = _read(labels, source)
    reports: list[FormReport] = []
    absent: dict[str, str] = {}
    expected: Floats | None = None
    for form in forms_of(run, url):
        try:
            predict = form.open()
        except (
            UsageError
        ) as error:  # not exported, not supported on this machine, or the server does not answer
            absent[form.name] = str(error)
            continue
        probabilities, texts_per_s = _all_rows(predict, texts, pairs)
        expected = probabilities if expected is None else expected
        reports.append(
            _report(
                form,
                labels.names,
                expected,
                probabilities,
                label_ids,
                texts_per_s,
                _single(predict, texts, pairs),
            )
        )
    return Passport(data=source.name, num_rows=len(texts), forms=tuple(reports), absent=absent)


def _read(labels: LabelMap, source: ExampleSource) -> tuple[list[str], list[str] | None, Integers]:
    texts: list[str] = []
    pairs: list[str] = []
    ids = []
    for batch, rows in usable_batches(source, CHUNK_ROWS):
        assert batch.labels is not None
        texts += batch.texts
        pairs += batch.pairs or []
        column = source.columns.label
        ids.append(labels.encode(batch.labels, source.name, rows=rows, column=column, locate=source.locate))
    return texts, pairs or None, np.concatenate(ids)


def _all_rows(predict: Predict, texts: Texts, pairs: Texts | None) -> tuple[Floats, float]:
    """Return the probabilities of all rows, and texts per second measured after a warm-up."""
    few = slice(0, WARM_UP_ROWS)
    predict(texts[few], None if pairs is None else pairs[few])
    started = time.perf_counter()
    probabilities = predict(texts, pairs)
    return probabilities, len(texts) / (time.perf_counter() - started)


def _single(predict: Predict, texts: Texts, pairs: Texts | None) -> float:
    """Return the median milliseconds for a single text."""
    seconds = []
    for i in (i % len(texts) for i in range(WARM_UP + SINGLE_TEXTS)):
        started = time.perf_counter()
        predict(texts[i : i + 1], None if pairs is None else pairs[i : i + 1])
        seconds.append(time.perf_counter() - started)
    return 1000 * median(seconds[WARM_UP:])


def _report(
    form: Form,
    names: Sequence[str],
    expected: Floats,
    probabilities: Floats,
    label_ids: Integers,
    texts_per_s: float,
    single_text_ms: float,
) -> FormReport:
    before, now = expected.argmax(axis=1), probabilities.argmax(axis=1)
    right = int((now == label_ids).sum())
    files = [] if form.folder is None else [path for path in form.folder.iterdir() if path.is_file()]
    return FormReport(
        name=form.name,
        accuracy=right / len(label_ids),
        accuracy_interval=wilson_interval(right, len(label_ids)),
        agreement=float((now == before).mean()),
        largest_difference=float(np.abs(probabilities - expected).max()),
        comparison=compare(before, now, label_ids),
        classes=tuple(_changes(names, before, now, label_ids)),
        bytes=sum(path.stat().st_size for path in files) if files else None,
        single_text_ms=single_text_ms,
        texts_per_s=texts_per_s,
    )


def _changes(
    names: Sequence[str], before: Integers, now: Integers, label_ids: Integers
) -> Iterator[ClassChange]:
    for i, name in enumerate(names):
        of_class = label_ids == i
        if not of_class.any():
            continue
        was_right, is_right = before[of_class] == i, now[of_class] == i
        yield ClassChange(
            label=name,
            rows=int(of_class.sum()),
            accuracy_as_measured=float(was_right.mean()),
            accuracy=float(is_right.mean()),
            p_value=mcnemar_p_value(int((was_right & ~is_right).sum()), int((~was_right & is_right).sum())),
        )


def check_losses(found: Passport, limit_points: float) -> None:
    """Check that no class loses more accuracy than a limit in percentage points.

    Raises:
        CheckpointError: if a class does; the message names the form and the class with the largest loss.
    """
    lost = [(form, change) for form in found.forms for change in form.lost(limit_points / 100)]
    if lost:
        form, change = max(lost, key=lambda each: each[1].loss)
        raise CheckpointError(
            f"{form.name}: the accuracy on {change.rows:,} rows of the class {change.label!r} is "
            f"{100 * change.accuracy:.1f} %, but {100 * change.accuracy_as_measured:.1f} % as measured; a loss of at "
            f"most {limit_points:g} points is allowed: deploy another form, or raise --max-class-loss"
        )
