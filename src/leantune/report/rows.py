"""Rows with their texts: wrong predictions, suspect labels, and equal texts with several labels.

Functions return an empty result if the run has not written the data they need.
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
MAX_OPEN = 3
"""Number of rows shown before the reader unfolds the rest."""
MAX_GROUPS, MAX_OF_GROUP = 10, 5

NONE = "none"
"""Text shown in place of the label if a row has no label."""

MEASURED: tuple[Part, ...] = ("test", "validation")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownNear:
    """A training row near to the row in question."""

    label: str
    place: str
    """Row number and cosine similarity, in words."""
    texts: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRow:
    """One row as the page shows it."""

    label: str
    predicted: str | None
    place: str
    """File, row number and probability, in words."""
    texts: Sequence[str]
    nearest: Sequence[ShownNear] = ()
    """Nearest training rows, the nearest first."""
    is_suspect: bool = False
    """Whether the row also belongs to the labels to check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualTexts:
    """A text with one row for each of its labels."""

    labels: Sequence[tuple[str, str]]
    """Label and position of each row, in words."""
    texts: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowList:
    """Rows under one heading."""

    title: str
    finding: str
    first: Sequence[ShownRow]
    rest: Sequence[ShownRow]
    """Rows that the reader can unfold."""


def wrong_predictions(run: Run) -> list[RowList]:
    """Return the most confident wrong predictions of each split, at most MAX_LISTED per split."""
    lists = []
    for part in MEASURED:
        rows = _of(run, part)[:MAX_LISTED]
        if rows:
            lists.append(_listed(part, rows, _wrong_finding(run, part, len(rows)), run))
    return lists


def suspect_labels(run: Run) -> list[RowList]:
    """Return, by split, the rows whose label the model contradicts with the highest confidence.

    Rows among the wrong predictions are marked there and are not repeated.
    """
    lists = []
    for part in MEASURED:
        rows = _of(run, part)
        marked = sum(bool(row.is_suspect) for row in rows[:MAX_LISTED])
        more = [row for row in rows[MAX_LISTED:] if row.is_suspect][: MAX_LISTED - marked]
        confidence = confidence_of(run, part)
        if marked or more:
            number = max(marked + len(more), confidence.suspect_labels if confidence else 0)
            finding = f"{count(number)} {part} {'row has' if number == 1 else 'rows have'} such a label"
            if marked:
                finding += (
                    f"; {marked} of them {'is' if marked == 1 else 'are'} marked among the wrong predictions"
                )
            if more:
                finding += (
                    f"; the next {len(more)} by confidence {'is' if len(more) == 1 else 'are'} listed here"
                )
            lists.append(_listed(part, more, f"{finding}.", run, has_title=False))
    return lists


def equal_texts(run: Run) -> list[EqualTexts]:
    """Return the texts that occur with several labels, each once."""
    equal = [row for row in run.rows_to_check if row.finding == "equal"]
    groups = [list(group) for _, group in groupby(equal, key=lambda row: (row.part, row.group))]
    return [
        EqualTexts(
            labels=[(shortened(row.label) or NONE, _place(run, row)) for row in group[:MAX_OF_GROUP]],
            texts=_texts(group[0]),
        )
        for group in groups[:MAX_GROUPS]
    ]


def equal_finding(run: Run) -> str:
    """Describe, by split, how many rows have the same text as a row with another label."""
    parts = run.record.data.parts() if run.record.data else {}
    found = [
        f"{count(rows.conflicting_rows)} {'training' if part == 'train' else part} rows"
        for part, rows in parts.items()
        if rows.conflicting_rows
    ]
    return f"{', '.join(found)} have the same text as a row with another label." if found else ""


def near_finding(run: Run) -> str:
    """Explain the nearest training texts and how many rows were searched; empty if there are none."""
    searched = max((row.searched or 0 for row in run.rows_to_check if row.nearest), default=0)
    if not searched:
        return ""
    rows = run.record.data.train.rows if run.record.data else searched
    among = (
        f"a sample of {count(searched)} of the {count(rows)}" if searched < rows else f"the {count(searched)}"
    )
    return (
        "Below each text are its nearest training texts in the classifier's embedding space, found among "
        f"{among} training rows. They often reveal a wrong label of this row or of the training row. They are "
        "evidence, not proof."
    )


def has_decoded(run: Run) -> bool:
    """Return whether some texts were decoded from tokens."""
    return any(row.is_decoded for row in run.rows_to_check)


def confidence_of(run: Run, part: str) -> ConfidenceRecord | None:
    """Return the recorded confidence on a split."""
    found: ConfidenceRecord | None = getattr(run.record.confidence, part, None)
    return found


def _of(run: Run, part: Part) -> list[RowToCheck]:
    rows = [row for row in run.rows_to_check if row.finding == "wrong" and row.part == part]
    # With several labels per row, a low probability can contradict a label, too: keep the order of the file.
    return sorted(rows, key=lambda row: -(row.probability or 0.0) if row.of_class is None else 0.0)


def _wrong_finding(run: Run, part: Part, number: int) -> str:
    metrics = getattr(run.record.metrics, part, None)
    if metrics is None or not metrics.num_rows:
        return f"{number} {part} rows; the most confident predictions come first."
    wrong = max(number, metrics.num_rows - round(metrics.accuracy * metrics.num_rows))
    finding = f"{count(wrong)} of {count(metrics.num_rows)} {part} rows are predicted wrongly"
    if wrong > number:
        return f"{finding}; the {number} most confident predictions are listed."
    return f"{finding}; the most confident predictions come first."


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
        is_suspect=bool(row.is_suspect),
    )


def _texts(row: RowToCheck) -> list[str]:
    return [shown_text(text) for text in (row.text, row.pair) if text]


def _place(run: Run, row: RowToCheck) -> str:
    rows = run.record.data.parts().get(row.part) if run.record.data else None
    file = shortened(path_end(rows.source, 1), 60) if rows else f"the {row.part} rows"
    return f"row {count(row.row)} of {file}"
