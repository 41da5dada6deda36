"""Rows with their texts: wrong predictions, labels that the model contradicts, equal texts under two labels.

A function gives nothing where the run has not written (yet) what its part is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from leantune.config.record.confidence import ConfidenceRecord
from leantune.config.rows_to_check import MAX_NEAR_CHARACTERS, Part, RowToCheck, shown_text
from leantune.report.run_folder import Run
from leantune.report.wording import count, path_end, shortened, significant

MAX_LISTED = 20
MAX_OPEN = 5
"""Rows that are shown before the reader asks for more."""
MAX_GROUPS = 10

NONE = "none"
"""In place of a label where a row has none."""

MEASURED: tuple[Part, ...] = ("test", "validation")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownNear:
    """A training row that is near to one."""

    label: str
    place: str
    """Where it is, and how near."""
    texts: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRow:
    """One row as the page has it."""

    label: str
    predicted: str | None
    place: str
    """Where it is, and how sure the model is."""
    texts: Sequence[str]
    nearest: Sequence[ShownNear] = ()
    """Training rows, the nearest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualTexts:
    """A text, and a row with it of each label."""

    labels: Sequence[tuple[str, str]]
    """Label and where the row is."""
    texts: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowList:
    """Rows under one heading."""

    title: str
    finding: str
    first: Sequence[ShownRow]
    rest: Sequence[ShownRow]
    """Those that the reader folds out."""


def wrong_predictions(run: Run) -> list[RowList]:
    """The most confident wrong predictions of each part, at most MAX_LISTED."""
    lists = []
    for part in MEASURED:
        rows = _of(run, part)[:MAX_LISTED]
        if rows:
            lists.append(_listed(part, rows, _wrong_finding(run, part, len(rows)), run))
    return lists


def suspect_labels(run: Run) -> list[RowList]:
    """The labels that the model contradicts with most confidence, by part."""
    lists = []
    for part in MEASURED:
        rows = [row for row in _of(run, part) if row.is_suspect][:MAX_LISTED]
        confidence = confidence_of(run, part)
        if rows:
            number = max(len(rows), confidence.suspect_labels if confidence else 0)
            finding = f"{count(number)} {part} {'row has' if number == 1 else 'rows have'} such a label"
            if number > len(rows):
                finding += f", of which the {len(rows)} that the model is most confident about are here"
            lists.append(_listed(part, rows, f"{finding}.", run, has_title=False))
    return lists


def equal_texts(run: Run) -> list[EqualTexts]:
    """Texts that are there under several labels, each once."""
    equal = [row for row in run.rows_to_check if row.finding == "equal"]
    groups = [list(group) for _, group in groupby(equal, key=lambda row: (row.part, row.group))]
    return [
        EqualTexts(
            labels=[(shortened(row.label) or NONE, _place(run, row)) for row in group[:MAX_OPEN]],
            texts=_texts(group[0]),
        )
        for group in groups[:MAX_GROUPS]
    ]


def equal_finding(run: Run) -> str:
    """How many rows have an equal one under another label, by part."""
    parts = run.record.data.parts() if run.record.data else {}
    found = [
        f"{count(rows.conflicting_rows)} {'training' if part == 'train' else part} rows"
        for part, rows in parts.items()
        if rows.conflicting_rows
    ]
    return f"{', '.join(found)} have an equal text under another label." if found else ""


def near_finding(run: Run) -> str:
    """What near training texts are, and among how many they were looked for; empty where there are none."""
    searched = max((row.searched or 0 for row in run.rows_to_check if row.nearest), default=0)
    if not searched:
        return ""
    rows = run.record.data.train.rows if run.record.data else searched
    among = (
        f"a sample of {count(searched)} of the {count(rows)}" if searched < rows else f"the {count(searched)}"
    )
    return (
        "Below each text are the training texts that are nearest to it in the classifier's own space, from "
        f"{among} training rows. They often show a wrong label, here or there. They are evidence, not proof."
    )


def has_decoded(run: Run) -> bool:
    """Whether some texts are put together from tokens."""
    return any(row.is_decoded for row in run.rows_to_check)


def confidence_of(run: Run, part: str) -> ConfidenceRecord | None:
    """What the record has of the confidence on a part."""
    found: ConfidenceRecord | None = getattr(run.record.confidence, part, None)
    return found


def _of(run: Run, part: Part) -> list[RowToCheck]:
    rows = [row for row in run.rows_to_check if row.finding == "wrong" and row.part == part]
    # of several labels a row a small probability can contradict a label as well: their order is the file's
    return sorted(rows, key=lambda row: -(row.probability or 0.0) if row.of_class is None else 0.0)


def _wrong_finding(run: Run, part: Part, number: int) -> str:
    metrics = getattr(run.record.metrics, part, None)
    if metrics is None or not metrics.num_rows:
        return f"{number} {part} rows, the most confident first."
    wrong = max(number, metrics.num_rows - round(metrics.accuracy * metrics.num_rows))
    finding = f"{count(wrong)} of {count(metrics.num_rows)} {part} rows are predicted wrong"
    if wrong > number:
        return f"{finding}; here are the {number} that the model is most confident about."
    return f"{finding}, the most confident first."


def _listed(
    part: Part, rows: Sequence[RowToCheck], finding: str, run: Run, *, has_title: bool = True
) -> RowList:
    shown = [_shown(row, run) for row in rows]
    title = f"{part.capitalize()} rows" if has_title else ""
    return RowList(title=title, finding=finding, first=shown[:MAX_OPEN], rest=shown[MAX_OPEN:])


def _shown(row: RowToCheck, run: Run) -> ShownRow:
    place = _place(run, row)
    if row.probability is not None:
        of = f" of {shortened(row.of_class, 40)}" if row.of_class else ""
        place = f"probability{of} {significant(row.probability)}, {place}"
    return ShownRow(
        label=shortened(row.label) or NONE,
        predicted=None if row.predicted is None else shortened(row.predicted) or NONE,
        place=place,
        texts=_texts(row),
        nearest=[
            ShownNear(
                label=shortened(near.label),
                place=f"cosine {near.cosine:.2f}, row {count(near.row)} of the training rows",
                texts=[shown_text(text, MAX_NEAR_CHARACTERS) for text in (near.text, near.pair) if text],
            )
            for near in row.nearest or ()
        ],
    )


def _texts(row: RowToCheck) -> list[str]:
    return [shown_text(text) for text in (row.text, row.pair) if text]


def _place(run: Run, row: RowToCheck) -> str:
    rows = run.record.data.parts().get(row.part) if run.record.data else None
    file = shortened(path_end(rows.source, 1), 60) if rows else f"the {row.part} rows"
    return f"row {count(row.row)} of {file}"
