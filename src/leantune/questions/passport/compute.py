"""Every form in which a run can be deployed, on the same labelled rows: is it the classifier that was measured?

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
from leantune.errors import CheckpointError, UsageError
from leantune.evaluation.comparison import Comparison, compare
from leantune.evaluation.intervals import Interval, mcnemar_p_value, wilson_interval
from leantune.evaluation.metrics import Floats, Integers
from leantune.inference.saved import read_saved
from leantune.inference.text_classifier import CHUNK_ROWS
from leantune.questions.passport.forms import Form, Predict, Texts, forms_of

JUDGED_ROWS = 20
"""Rows of a class below which its accuracy may change by chance alone, and decides nothing."""
SINGLE_TEXTS, WARM_UP = 50, 5
"""Texts that are timed one by one, and those before them."""
WARM_UP_ROWS = 256
"""Before all rows are timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassChange:
    """Rows of one class that are right as measured, and in a form."""

    label: str
    rows: int
    accuracy_as_measured: float
    accuracy: float
    p_value: float
    """McNemar's test, mid-p, of "both err equally often"."""

    @property
    def loss(self) -> float:
        """How much lower the accuracy is."""
        return self.accuracy_as_measured - self.accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class FormReport:
    """One form on all rows. Rates are fractions."""

    name: str
    accuracy: float
    accuracy_interval: Interval
    """95 %, Wilson's."""
    agreement: float
    """Rows whose prediction is that of the classifier as measured."""
    largest_difference: float
    """Of a probability."""
    comparison: Comparison
    """As measured is a, this form is b."""
    classes: tuple[ClassChange, ...]
    bytes: int | None
    single_text_ms: float
    """Median of one text at a time."""
    texts_per_s: float

    def lost(self, limit: float) -> list[ClassChange]:
        """Classes of `JUDGED_ROWS` rows or more whose accuracy is lower by more than ``limit``."""
        return [each for each in self.classes if each.rows >= JUDGED_ROWS and each.loss > limit]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passport:
    """All forms of a run."""

    data: str
    num_rows: int
    forms: tuple[FormReport, ...]
    """The first is the run as it was measured."""
    absent: Mapping[str, str]
    """Forms that could not be had, and why."""


def passport(run: Path, source: ExampleSource, *, url: str | None = None) -> Passport:
    """Classify every row in every form.

    Args:
        run: the run folder.
        source: labelled rows, which should not be training rows.
        url: of a server.

    Raises:
        DataError: for a row or a label that is not what it must be.
        CheckpointError: if the run or an export is damaged.
        UsageError: if the server does not answer.
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
        except UsageError as error:  # it was not exported, or this machine cannot compute it
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
    for batch in source.batches(CHUNK_ROWS):
        assert batch.labels is not None
        texts += batch.texts
        pairs += batch.pairs or []
        column = source.columns.label
        ids.append(
            labels.encode(batch.labels, source.name, start=batch.start, column=column, locate=source.locate)
        )
    return texts, pairs or None, np.concatenate(ids)


def _all_rows(predict: Predict, texts: Texts, pairs: Texts | None) -> tuple[Floats, float]:
    """Probabilities of all rows, and texts a second after a start that is not counted."""
    few = slice(0, WARM_UP_ROWS)
    predict(texts[few], None if pairs is None else pairs[few])
    started = time.perf_counter()
    probabilities = predict(texts, pairs)
    return probabilities, len(texts) / (time.perf_counter() - started)


def _single(predict: Predict, texts: Texts, pairs: Texts | None) -> float:
    """Median milliseconds of one text."""
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
    """Refuse forms in which a class loses more than a limit.

    Raises:
        CheckpointError: naming the form and the class that lost most.
    """
    lost = [(form, change) for form in found.forms for change in form.lost(limit_points / 100)]
    if lost:
        form, change = max(lost, key=lambda each: each[1].loss)
        raise CheckpointError(
            f"{form.name}: of {change.rows:,} rows of the class {change.label!r} {100 * change.accuracy:.1f} % are "
            f"right, {100 * change.accuracy_as_measured:.1f} % as measured; {limit_points:g} points less are allowed: "
            "deploy another form, or allow more with --max-class-loss"
        )
