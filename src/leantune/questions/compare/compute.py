"""Compare runs row by row on rows that none of them was trained on.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    """Of the rows that are right about the class."""

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
class _Predicted:
    """What a run predicts for N rows, with its labels in its own order."""

    classifier: TextClassifier
    rows: LabelledRows
    probabilities: Floats

    def __getitem__(self, positions: npt.NDArray[np.int64]) -> _Predicted:
        return replace(self, rows=self.rows[positions], probabilities=self.probabilities[positions])

    def labels_and_predictions(self, names: Sequence[str]) -> tuple[Bools, Bools]:
        """Whether each row has, and gets, each of ``names``: two arrays ``(N, C)``."""
        own, thresholds = self.classifier.labels.names, self.classifier.thresholds
        order = [own.index(name) for name in names]
        one_of = np.eye(len(own), dtype=bool)
        if thresholds is None:
            labels, predicted = one_of[self.rows.label_ids], one_of[self.probabilities.argmax(axis=1)]
        else:
            labels, predicted = self.rows.label_ids.astype(bool), self.probabilities >= thresholds
        return labels[:, order], predicted[:, order]


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
    predicted, sources = [], []
    for run, record in zip(runs, records, strict=True):
        rows, source = _rows_of(run, record, data, part, **columns)
        classifier = load(run)
        probabilities = classifier.probabilities(rows.encoded(), classifier.settings.batch_size, start=0)
        predicted.append(_Predicted(classifier, rows, probabilities))
        sources.append(source)
    common = _on_common_rows(predicted, runs)
    names = common[0].classifier.labels.names
    _check_rows(common, names, runs, sources[0].name)
    measured = [_measured(run, record, each) for run, record, each in zip(runs, records, common, strict=True)]
    return RunComparison(
        rows=data or part or "",
        num_rows=len(common[0].rows),
        runs=tuple(measured),
        against_first=tuple(
            RunDifference(
                name=about.name,
                comparison=_compared(*_right(common[0], other, names)),
                classes=_classes(common[0], other, measured[0].metrics, about.metrics),
                only_first_right=_disagreements(common[0], other, names, sources[0]),
                only_other_right=_disagreements(other, common[0], names, sources[0]),
            )
            for about, other in zip(measured[1:], common[1:], strict=True)
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


def _on_common_rows(predicted: Sequence[_Predicted], runs: Sequence[Path]) -> list[_Predicted]:
    """The predictions for the rows that every run has, in the order of the file."""
    rows = reduce(np.intersect1d, (each.rows.row_of for each in predicted))
    if not len(rows):
        raise UsageError(f"{' and '.join(map(str, runs))} held out other rows, and none is common; {ADVICE}")
    found = []
    for each in predicted:
        order = np.argsort(each.rows.row_of)
        found.append(each[order[np.searchsorted(each.rows.row_of[order], rows)]])
    return found


def _measured(run: Path, record: FinishedRecord, found: _Predicted) -> MeasuredRun:
    labels, parameters = found.classifier.labels, record.parameters
    task = task_of(is_multi_label=labels.is_multi_label)
    return MeasuredRun(
        name=str(run),
        metrics=task.evaluate(
            found.probabilities, found.rows.label_ids, labels.names, found.classifier.thresholds
        ),
        trainable=(parameters.final or parameters.initial) if parameters else None,
        train_s=(record.timings or {}).get("train_s"),
    )


def _check_rows(common: Sequence[_Predicted], names: Sequence[str], runs: Sequence[Path], name: str) -> None:
    """Refuse runs that read other labels in the same rows, as from another column."""
    first, _ = common[0].labels_and_predictions(names)
    for run, each in zip(runs[1:], common[1:], strict=True):
        labels, _ = each.labels_and_predictions(names)
        differ = np.flatnonzero((labels != first).any(axis=1))
        if len(differ):
            raise DataError(
                f"{runs[0]} and {run} read other labels in {len(differ):,} rows, the first in row "
                f"{int(common[0].rows.row_of[differ[0]])} (counted from 0): they use other label columns",
                path=name,
            )


def _right(first: _Predicted, other: _Predicted, names: Sequence[str]) -> tuple[Bools, Bools]:
    """Whether each row is predicted right by one run and by the other, ``(N,)`` each."""
    found = [(labels == predicted).all(axis=1) for labels, predicted in _both(first, other, names)]
    return found[0], found[1]


def _classes(
    first: _Predicted, other: _Predicted, first_metrics: Metrics, other_metrics: Metrics
) -> tuple[ClassDifference, ...]:
    names = first.classifier.labels.names
    is_right_first, is_right_other = (labels == predicted for labels, predicted in _both(first, other, names))
    of_other = {each.label: each for each in other_metrics.per_class}
    return tuple(
        ClassDifference(
            label=each.label,
            rows=each.support,
            f1_first=each.f1,
            f1_other=of_other[each.label].f1,
            comparison=_compared(is_right_first[:, c], is_right_other[:, c]),
        )
        for c, each in enumerate(first_metrics.per_class)
    )


def _disagreements(
    right: _Predicted, wrong: _Predicted, names: Sequence[str], source: ExampleSource
) -> tuple[Disagreement, ...]:
    """The rows that only ``right`` predicts right, those that ``wrong`` is most sure about first."""
    is_right, is_right_too = _right(right, wrong, names)
    found = np.flatnonzero(is_right & ~is_right_too)
    probability = wrong.probabilities.max(axis=1)
    found = found[np.argsort(-probability[found], kind="stable")][:MAX_LISTED]
    labels, predicted = wrong.labels_and_predictions(names)
    rows = wrong.rows.row_of[found].tolist()
    texts = texts_at(source, set(rows))
    return tuple(
        Disagreement(
            row=row,
            texts=tuple(shown_text(text) for text in texts[row] if text),
            label=joined(names, labels[i]),
            predicted=joined(names, predicted[i]),
            probability=float(probability[i]),
        )
        for i, row in zip(found.tolist(), rows, strict=True)
    )


def _both(first: _Predicted, other: _Predicted, names: Sequence[str]) -> Iterator[tuple[Bools, Bools]]:
    return (each.labels_and_predictions(names) for each in (first, other))


def _compared(is_right_first: Bools, is_right_other: Bools) -> Comparison:
    ones = np.ones(len(is_right_first), dtype=np.int64)
    return compare(is_right_first.astype(np.int64), is_right_other.astype(np.int64), ones)
