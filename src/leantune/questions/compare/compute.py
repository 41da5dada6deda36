"""Compare runs row by row on rows that none of them was trained on.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from leantune.assets.download import resolve_location
from leantune.config import recipe_of_run
from leantune.config.classifier_file import InferenceSettings
from leantune.config.record.run import FinishedRecord, read_finished_record
from leantune.config.rows_to_check import shown_text
from leantune.data.label_sets import joined
from leantune.data.text.columns import columns_for
from leantune.data.text.read import ExampleSource, open_examples
from leantune.data.tokens.dataset import LabelledRows
from leantune.errors import DataError, UsageError
from leantune.evaluation.comparison import Comparison, compare
from leantune.evaluation.metrics import Metrics
from leantune.evaluation.tasks import Floats, task_of
from leantune.inference.load import load
from leantune.inference.text_classifier import TextClassifier
from leantune.system.messages import listed
from leantune.training.after.calibration_data import rows_to_measure
from leantune.training.after.rows_again import read_rows_again, texts_at

MAX_LISTED = 20
"""Number of rows kept of each kind of disagreement."""

Bools = npt.NDArray[np.bool_]
ADVICE = "give labelled rows with --data FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """One run on the common rows."""

    name: str
    """Path of the run."""
    metrics: Metrics
    trainable: int | None
    """Trainable parameters at the end of training, if recorded."""
    train_s: float | None
    """Seconds of training, if recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDifference:
    """One class in two runs. A row is right about a class if both its labels and its prediction have it, or neither."""

    label: str
    rows: int
    """Number of rows with this label."""
    f1_first: float | None
    """None if no row has the label or the prediction."""
    f1_other: float | None
    comparison: Comparison
    """``a`` is the first run, ``b`` the other; it counts the rows that are right about the class."""

    @property
    def gain(self) -> float:
        """F1 of the other run minus F1 of the first, as a fraction."""
        return (self.f1_other or 0.0) - (self.f1_first or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A row that only one of two runs predicts right."""

    row: int
    """Row number in its file, from 0."""
    texts: tuple[str, ...]
    """Beginning of the text, and of the second text of a pair."""
    label: str
    predicted: str
    """Prediction of the run that is wrong."""
    probability: float
    """Largest probability of the run that is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDifference:
    """Another run against the first."""

    name: str
    comparison: Comparison
    """``a`` is the first run, ``b`` the other."""
    classes: tuple[ClassDifference, ...]
    """In the order of the first run's classes."""
    only_first_right: tuple[Disagreement, ...]
    """At most `MAX_LISTED` rows, those that the other run is most sure about first."""
    only_other_right: tuple[Disagreement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Runs on the same rows, each against the first."""

    rows: str
    """``test``, ``validation``, or the file that was given."""
    num_rows: int
    runs: tuple[MeasuredRun, ...]
    against_first: tuple[RunDifference, ...]


@dataclass(frozen=True, slots=True)
class _Answers:
    """What a run answers for the N common rows, with C classes in the order of the first run."""

    row_of: npt.NDArray[np.int64]
    labels: Bools
    """``(N, C)`` whether a row has each label."""
    predicted: Bools
    """``(N, C)`` whether each label is predicted."""
    probability: Floats
    """``(N,)`` largest probability."""

    @property
    def is_right(self) -> Bools:
        """``(N, C)`` whether a row is right about each class."""
        return np.asarray(self.labels == self.predicted)

    @property
    def is_all_right(self) -> Bools:
        """``(N,)`` whether a row is right about every class."""
        return np.asarray(self.is_right.all(axis=1))


def compare_runs(
    runs: Sequence[Path],
    data: str | None = None,
    **columns: Any,
) -> RunComparison:
    """Classify the same rows with every run, and compare each with the first, row by row.

    Args:
        runs: folders of finished runs, two or more.
        data: a file of labelled rows; None: the test rows if all runs were measured on the same, else the validation
            rows that all of them held out.
        columns: names of columns of ``data`` that differ from those of training.

    Raises:
        UsageError: if there are fewer than two runs, a folder is no run, or the runs have other labels or no common
            rows.
        DataError: if the rows cannot be read again or have changed, or the runs read other labels in them.
        CheckpointError: if a run is damaged.
    """
    if len(runs) < 2:
        raise UsageError(f"a comparison needs two runs or more. Got {len(runs)} instead")
    if data is None and any(columns.values()):
        raise UsageError(f"columns are those of the rows to compare on; {ADVICE}")
    if data == "-":
        raise UsageError("standard input can be read only once, and each run reads the rows: give a file")
    records = [read_finished_record(run) for run in runs]
    _check_labels(runs, records)
    part = None if data else _common_part(runs, records)
    found = [_rows_of(run, record, data, part, **columns) for run, record in zip(runs, records, strict=True)]
    source, names = found[0][1], records[0].labels.names
    common = _common_rows([rows for rows, _ in found], runs)
    answers, measured = [], []
    for run, record, (every_row, _) in zip(runs, records, found, strict=True):
        classifier = load(run)
        # all rows are classified, so that a run's numbers do not depend on the other runs
        probabilities = classifier.probabilities(every_row.encoded(), classifier.settings.batch_size, start=0)
        at = _positions(every_row, common)
        answers.append(_answers(classifier, every_row[at], probabilities[at], names))
        measured.append(_measured(run, record, classifier, every_row[at], probabilities[at]))
    first, others = answers[0], answers[1:]
    _check_rows(answers, runs, source.name)
    return RunComparison(
        rows=data or part or "",
        num_rows=len(common),
        runs=tuple(measured),
        against_first=tuple(
            RunDifference(
                name=about.name,
                comparison=_compared(first.is_all_right, other.is_all_right),
                classes=_classes(first, other, measured[0].metrics, about.metrics),
                only_first_right=_disagreements(first, other, names, source),
                only_other_right=_disagreements(other, first, names, source),
            )
            for about, other in zip(measured[1:], others, strict=True)
        ),
    )


def _check_labels(runs: Sequence[Path], records: Sequence[FinishedRecord]) -> None:
    first = set(records[0].labels.names)
    for run, record in zip(runs[1:], records[1:], strict=True):
        own = set(record.labels.names)
        if own != first:
            only = [
                f"only {place} has {listed(sorted(names), 5)}"
                for place, names in ((runs[0], first - own), (run, own - first))
                if names
            ]
            raise UsageError(
                f"{runs[0]} and {run} have other labels: {'; '.join(only)}; compare runs with the same"
            )
        if record.labels.problem_type != records[0].labels.problem_type:
            raise UsageError(
                f"{runs[0]} and {run}: one gives a text one label and the other several; compare like runs"
            )


def _common_part(runs: Sequence[Path], records: Sequence[FinishedRecord]) -> str:
    """The part of the data that all runs have in one file: test, else validation."""
    for part in ("test", "validation"):
        parts = [record.data.parts().get(part) if record.data else None for record in records]
        is_seen = part == "validation" and any(record.refit for record in records)
        if not is_seen and None not in parts and len({rows.sha256 for rows in parts if rows}) == 1:
            return part
    raise UsageError(f"{' and '.join(map(str, runs))} were not measured on the same file; {ADVICE}")


def _rows_of(
    run: Path, record: FinishedRecord, data: str | None, part: str | None, **columns: Any
) -> tuple[LabelledRows, ExampleSource]:
    recipe = recipe_of_run(run, record.recipe)
    if data is not None:
        wanted = columns_for(InferenceSettings.of(recipe), **columns)
        rows, _ = rows_to_measure(run, data, **columns)
        return rows, open_examples(resolve_location(data), wanted, labels="required", split="test")
    again = read_rows_again(run, record, recipe, advice=ADVICE, with_test=part == "test")
    if part == "test":
        assert again.test is not None, "the record has test rows"
        return again.test, again.sources["test"]
    return again.validation, again.sources["validation" if recipe.validation else "train"]


def _common_rows(rows: Sequence[LabelledRows], runs: Sequence[Path]) -> npt.NDArray[np.int64]:
    """The row numbers that every run has, in the order of the file."""
    common: npt.NDArray[np.int64] = reduce(np.intersect1d, (each.row_of for each in rows))
    if not len(common):
        raise UsageError(f"{' and '.join(map(str, runs))} held out other rows, and none is common; {ADVICE}")
    return common


def _positions(rows: LabelledRows, wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    order = np.argsort(rows.row_of)
    return order[np.searchsorted(rows.row_of[order], wanted)]


def _answers(
    classifier: TextClassifier, rows: LabelledRows, probabilities: Floats, names: Sequence[str]
) -> _Answers:
    own, thresholds = classifier.labels.names, classifier.thresholds
    order, one_of = [own.index(name) for name in names], np.eye(len(own), dtype=bool)
    if thresholds is None:
        labels, predicted = one_of[rows.label_ids], one_of[probabilities.argmax(axis=1)]
    else:
        labels, predicted = rows.label_ids.astype(bool), probabilities >= thresholds
    return _Answers(rows.row_of, labels[:, order], predicted[:, order], probabilities.max(axis=1))


def _measured(
    run: Path, record: FinishedRecord, classifier: TextClassifier, rows: LabelledRows, probabilities: Floats
) -> MeasuredRun:
    labels, parameters = classifier.labels, record.parameters
    task = task_of(is_multi_label=labels.is_multi_label)
    return MeasuredRun(
        name=str(run),
        metrics=task.evaluate(probabilities, rows.label_ids, labels.names, classifier.thresholds),
        trainable=(parameters.final or parameters.initial) if parameters else None,
        train_s=(record.timings or {}).get("train_s"),
    )


def _check_rows(answers: Sequence[_Answers], runs: Sequence[Path], name: str) -> None:
    """Refuse runs that read other labels in the same rows, as from another column."""
    first = answers[0]
    for run, each in zip(runs[1:], answers[1:], strict=True):
        differ = np.flatnonzero((each.labels != first.labels).any(axis=1))
        if len(differ):
            raise DataError(
                f"{runs[0]} and {run} read other labels in {len(differ):,} rows, the first in row "
                f"{int(first.row_of[differ[0]])} (counted from 0): they use other label columns",
                path=name,
            )


def _classes(
    first: _Answers, other: _Answers, first_metrics: Metrics, other_metrics: Metrics
) -> tuple[ClassDifference, ...]:
    of_other = {each.label: each for each in other_metrics.per_class}
    return tuple(
        ClassDifference(
            label=each.label,
            rows=each.support,
            f1_first=each.f1,
            f1_other=of_other[each.label].f1,
            comparison=_compared(first.is_right[:, c], other.is_right[:, c]),
        )
        for c, each in enumerate(first_metrics.per_class)
    )


def _disagreements(
    right: _Answers, wrong: _Answers, names: Sequence[str], source: ExampleSource
) -> tuple[Disagreement, ...]:
    """The rows that only ``right`` predicts right, those that ``wrong`` is most sure about first."""
    found = np.flatnonzero(right.is_all_right & ~wrong.is_all_right)
    found = found[np.argsort(-wrong.probability[found], kind="stable")][:MAX_LISTED]
    rows = wrong.row_of[found].tolist()
    texts = texts_at(source, set(rows))
    return tuple(
        Disagreement(
            row=row,
            texts=tuple(shown_text(text) for text in texts[row] if text),
            label=joined(names, wrong.labels[i]),
            predicted=joined(names, wrong.predicted[i]),
            probability=float(wrong.probability[i]),
        )
        for i, row in zip(found.tolist(), rows, strict=True)
    )


def _compared(is_right_first: Bools, is_right_other: Bools) -> Comparison:
    ones = np.ones(len(is_right_first), dtype=np.int64)
    return compare(is_right_first.astype(np.int64), is_right_other.astype(np.int64), ones)
