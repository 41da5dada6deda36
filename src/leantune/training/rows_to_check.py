"""The rows that a user may want to look at once a run is over, each with its text: what the model gets wrong with most
confidence, and equal texts under two labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from leantune.assets.download import resolve_location
from leantune.config.rows_to_check import Finding, Part, RowToCheck, shown_text, write_rows_to_check
from leantune.data.dataset import Index, LabelledRows
from leantune.data.label_sets import joined, numbered
from leantune.data.read import open_examples
from leantune.inference.confidence import Answers
from leantune.inference.tasks import PairAnswers
from leantune.system import distributed
from leantune.training.build import Run
from leantune.training.dataset import columns_of

MAX_WRONG = 20
"""Of a part; and so many suspects that are not among them."""
MAX_GROUPS, MAX_OF_GROUP = 5, 4
"""Of equal texts in a part, and rows of each, one a label."""

PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class _Text:
    text: str
    pair: str | None
    is_decoded: bool


def save_rows_to_check(run: Run, answers: Mapping[str, Answers | PairAnswers | None]) -> None:
    """Write ``rows_to_check.jsonl``.

    Args:
        run: whose rows they are.
        answers: what the model said of the validation and of the test rows, by part.
    """
    if not distributed.is_main():
        return
    with run.console.status("picking rows to check"):
        write_rows_to_check(run.folder, list(_rows_to_check(run, answers)))


def _rows_to_check(run: Run, answers: Mapping[str, Answers | PairAnswers | None]) -> Iterator[RowToCheck]:
    for part in PARTS:
        rows, said = rows_of(run, part), answers.get(part)
        if rows is None or not len(rows):
            continue
        wrong = np.empty(0, dtype=np.int64)
        if said is not None:
            wrong = wrong_rows(said)[:MAX_WRONG] if isinstance(said, PairAnswers) else wrong_positions(said)
        groups = _equal_positions(run, part, rows)
        texts = _texts(run, part, rows, np.unique(np.concatenate([wrong, *groups])))
        if isinstance(said, PairAnswers):
            yield from _wrong_labels(run, part, rows, said, wrong, texts)
        elif said is not None:
            yield from _wrong(run, part, rows, said, wrong, texts)
        yield from _equal(run, part, rows, groups, texts)


def rows_of(run: Run, part: Part) -> LabelledRows | None:
    """The labelled rows of a part, without those that a first run labelled."""
    if part == "test":
        return run.data.test
    rows = run.data.train if part == "train" else run.data.validation
    return rows[np.flatnonzero(rows.table_of == 0)] if len(rows.tables) > 1 else rows


def wrong_positions(answers: Answers) -> Index:
    """The most confident wrong predictions and the most confident suspects, the most confident first."""
    order = np.argsort(-answers.confidence, kind="stable")
    wrong = order[~answers.is_right[order]][:MAX_WRONG]
    suspects = order[answers.suspects()[order]][:MAX_WRONG]
    is_chosen = np.zeros(len(order), dtype=np.bool_)
    is_chosen[wrong] = is_chosen[suspects] = True
    return order[is_chosen[order]]


def wrong_rows(answers: PairAnswers) -> Index:
    """The rows whose labels are not all right, the one first that is contradicted with most confidence in a label."""
    doubt = contradictions(answers)
    order = np.argsort(-doubt.max(axis=1), kind="stable")
    return np.asarray(order[doubt[order].max(axis=1) > 0])


def contradictions(answers: PairAnswers) -> npt.NDArray[np.float64]:
    """``(N, C)`` how far the model is on the other side of the threshold than the label, from 0 to 1; 0 where both
    agree: of a probability p at a threshold t ``(p - t) / (1 - t)`` or ``(t - p) / t``.
    """
    p, t = answers.probabilities.astype(np.float64), answers.thresholds
    above, below = (p - t) / np.maximum(1 - t, 1e-9), (t - p) / np.maximum(t, 1e-9)
    doubt = np.where(answers.labels == 1, below, above)
    return np.where(answers.predicted != (answers.labels == 1), np.clip(doubt, 1e-9, 1.0), 0.0)


def equal_positions(rows: LabelledRows) -> list[Index]:
    """The first groups of rows that are equal to the model and have several labels: a row of each label."""
    hashes, label_ids = rows.hashes(), numbered(rows.label_ids)
    order = np.lexsort((np.arange(len(rows)), label_ids, hashes))
    is_new = np.diff(hashes[order]) != 0
    starts = np.concatenate([[0], 1 + np.flatnonzero(is_new), [len(order)]])
    is_mixed = label_ids[order[starts[:-1]]] != label_ids[order[starts[1:] - 1]]
    groups = []
    for i in np.flatnonzero(is_mixed):
        group = order[starts[i] : starts[i + 1]]
        _, first = np.unique(label_ids[group], return_index=True)
        groups.append(np.sort(group[first[:MAX_OF_GROUP]]))
    return sorted(groups, key=lambda group: int(group[0]))[:MAX_GROUPS]


def _equal_positions(run: Run, part: Part, rows: LabelledRows) -> list[Index]:
    described = run.data.description.parts().get(part)
    return equal_positions(rows) if described and described.conflicting_rows else []


def _wrong(
    run: Run, part: Part, rows: LabelledRows, answers: Answers, positions: Index, texts: Mapping[int, _Text]
) -> Iterator[RowToCheck]:
    names, suspects = run.data.labels.names, answers.suspects()
    for position in positions.tolist():
        yield replace(
            _found(run, "wrong", part, rows, position, texts),
            predicted=names[answers.predicted[position]],
            probability=round(min(1.0, float(answers.confidence[position])), 4),
            is_suspect=bool(suspects[position]),
        )


def _wrong_labels(
    run: Run,
    part: Part,
    rows: LabelledRows,
    answers: PairAnswers,
    positions: Index,
    texts: Mapping[int, _Text],
) -> Iterator[RowToCheck]:
    names, worst_class = run.data.labels.names, contradictions(answers).argmax(axis=1)
    for position in positions.tolist():
        worst = int(worst_class[position])
        yield replace(
            _found(run, "wrong", part, rows, position, texts),
            predicted=joined(names, answers.predicted[position]),
            probability=round(min(1.0, float(answers.probabilities[position, worst])), 4),
            of_class=names[worst],
        )


def _equal(
    run: Run, part: Part, rows: LabelledRows, groups: list[Index], texts: Mapping[int, _Text]
) -> Iterator[RowToCheck]:
    for number, group in enumerate(groups):
        for position in group.tolist():
            yield replace(_found(run, "equal", part, rows, position, texts), group=number)


def _found(
    run: Run, finding: Finding, part: Part, rows: LabelledRows, position: int, texts: Mapping[int, _Text]
) -> RowToCheck:
    """What is said of a row whatever was found."""
    text = texts[position]
    return RowToCheck(
        finding=finding,
        part=part,
        row=int(rows.row_of[position]),
        text=text.text,
        pair=text.pair,
        is_decoded=text.is_decoded or None,
        label=_label_of(run, rows, position),
    )


def _label_of(run: Run, rows: LabelledRows, position: int) -> str:
    names, own = run.data.labels.names, rows.label_ids[position]
    return joined(names, own) if rows.is_multi_label else names[int(own)]


def _texts(run: Run, part: Part, rows: LabelledRows, positions: Index) -> dict[int, _Text]:
    """The texts of rows by position: those of the source, or their tokens as text where it is not what it was."""
    if not len(positions):
        return {}
    read: dict[int, tuple[str, str | None]] = {}
    try:
        read = _read_again(run, part, set(rows.row_of[positions].tolist()))
    except Exception:  # whatever is wrong with the source by now, a text to show is no reason to lose a run
        read = {}
    return {
        position: _text(run, rows, position, read.get(int(rows.row_of[position])))
        for position in positions.tolist()
    }


def _read_again(run: Run, part: Part, wanted: set[int]) -> dict[int, tuple[str, str | None]]:
    """Row number -> text and second text."""
    recipe = run.recipe
    own = {"train": recipe.data, "validation": recipe.validation, "test": recipe.test}[part]
    location = own or recipe.data
    if location == "-":  # was read, and is gone
        return {}
    source = open_examples(
        resolve_location(location),
        columns_of(recipe),
        labels="required",
        split=part if own else "train",
    )
    found: dict[int, tuple[str, str | None]] = {}
    for batch in source.batches():
        for row in [row for row in wanted if batch.start <= row < batch.start + len(batch.texts)]:
            at = row - batch.start
            found[row] = batch.texts[at], batch.pairs[at] if batch.pairs else None
        if len(found) == len(wanted):
            break
    return found


def _text(run: Run, rows: LabelledRows, position: int, read: tuple[str, str | None] | None) -> _Text:
    here = rows[np.array([position])]
    tokens = here.tokens()[0]
    if read is not None:
        text, pair = read
        # hours may have passed: only a text with these tokens is the text of the row
        again = run.data.tokenizer.encode([text], None if pair is None else [pair])
        if np.array_equal(again.input_ids[0], tokens) and again.full_lengths[0] == here.full_lengths[0]:
            return _Text(shown_text(text), None if pair is None else shown_text(pair), is_decoded=False)
    start = int(here.second_starts()[0])
    first, second = (run.data.tokenizer.decode(ids.tolist()) for ids in (tokens[:start], tokens[start:]))
    return _Text(shown_text(first), shown_text(second) if len(tokens) > start else None, is_decoded=True)
