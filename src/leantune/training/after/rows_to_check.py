"""Rows worth checking after a run, with their texts: the most confident mistakes, and equal texts with two labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from leantune.assets.download import resolve_location
from leantune.config.rows_to_check import (
    MAX_CHARACTERS,
    MAX_NEAR_CHARACTERS,
    Finding,
    NearRow,
    Part,
    RowToCheck,
    shown_text,
    write_rows_to_check,
)
from leantune.data.label_sets import joined, named, numbered
from leantune.data.text.read import open_examples
from leantune.data.tokens.dataset import Index, LabelledRows
from leantune.evaluation.confidence import Answers
from leantune.evaluation.tasks import PairAnswers
from leantune.model.classifier import Classifier
from leantune.system import distributed
from leantune.training.after.near_rows import Near, find_near
from leantune.training.after.rows_again import texts_at
from leantune.training.before.dataset import columns_of
from leantune.training.build import Run
from leantune.training.history import preparing

MAX_WRONG = 20
"""Wrong rows to list per part, and suspect rows beyond them."""
MAX_GROUPS, MAX_OF_GROUP = 5, 4
"""Groups of equal texts per part, and rows per group, one for each label."""

PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class _Text:
    text: str
    pair: str | None
    is_decoded: bool


def save_rows_to_check(
    run: Run, classifier: Classifier, answers: Mapping[str, Answers | PairAnswers | None]
) -> None:
    """Write ``rows_to_check.jsonl``.

    Args:
        run: the run that the rows belong to.
        classifier: the trained classifier.
        answers: the model's answers on the validation and the test rows, by part.
    """
    with preparing(run.console, "picking rows to check"):
        wrong = {part: _chosen(said) for part, said in answers.items() if said is not None}
        near = _near(run, classifier, wrong)  # all processes compute this
        if distributed.is_main():
            write_rows_to_check(run.folder, list(_rows_to_check(run, answers, wrong, near)))


def _near(run: Run, classifier: Classifier, wrong: Mapping[str, Index]) -> Near | None:
    train = rows_of(run, "train")
    assert train is not None
    parts = ((part, rows_of(run, part)) for part in PARTS if part in wrong)
    return find_near(run, classifier, train, {part: rows[wrong[part]] for part, rows in parts if rows})


def _rows_to_check(
    run: Run,
    answers: Mapping[str, Answers | PairAnswers | None],
    wrong: Mapping[str, Index],
    near: Near | None,
) -> Iterator[RowToCheck]:
    near_rows = {} if near is None else _near_rows(run, near)
    searched = None if near is None else len(near.rows)
    for part in PARTS:
        rows, said = rows_of(run, part), answers.get(part)
        if rows is None or not len(rows):
            continue
        positions = wrong.get(part, np.empty(0, dtype=np.int64))
        groups = _equal_positions(run, part, rows)
        texts = _texts(run, part, rows, np.unique(np.concatenate([positions, *groups])))
        if said is not None:
            if isinstance(said, PairAnswers):
                found = _wrong_labels(run, part, rows, said, positions, texts)
            else:
                found = _wrong(run, part, rows, said, positions, texts)
            for row, nearest in zip(found, near_rows.get(part, ()), strict=True):
                yield replace(row, nearest=nearest, searched=searched)
        yield from _equal(run, part, rows, groups, texts)


def rows_of(run: Run, part: Part) -> LabelledRows | None:
    """The labelled rows of a part, without pseudo-labelled rows."""
    if part == "test":
        return run.data.test
    rows = run.data.train if part == "train" else run.data.validation
    return rows[np.flatnonzero(rows.table_of == 0)] if len(rows.tables) > 1 else rows


def _chosen(answers: Answers | PairAnswers) -> Index:
    return wrong_rows(answers)[:MAX_WRONG] if isinstance(answers, PairAnswers) else wrong_positions(answers)


def wrong_positions(answers: Answers) -> Index:
    """Positions of the most confident wrong predictions and suspects, the most confident first."""
    order = np.argsort(-answers.confidence, kind="stable")
    wrong = order[~answers.is_right[order]][:MAX_WRONG]
    suspects = order[answers.suspects()[order]][:MAX_WRONG]
    is_chosen = np.zeros(len(order), dtype=np.bool_)
    is_chosen[wrong] = is_chosen[suspects] = True
    return order[is_chosen[order]]


def wrong_rows(answers: PairAnswers) -> Index:
    """Positions of rows with any wrong label, in descending order of their strongest contradiction."""
    doubt = contradictions(answers)
    order = np.argsort(-doubt.max(axis=1), kind="stable")
    return np.asarray(order[doubt[order].max(axis=1) > 0])


def contradictions(answers: PairAnswers) -> npt.NDArray[np.float64]:
    """How strongly the model contradicts each label, ``(N, C)``, from 0 (it agrees) to 1.

    With probability p and threshold t this is ``(p - t) / (1 - t)`` or ``(t - p) / t``.
    """
    p, t = answers.probabilities.astype(np.float64), answers.thresholds
    above, below = (p - t) / np.maximum(1 - t, 1e-9), (t - p) / np.maximum(t, 1e-9)
    doubt = np.where(answers.labels == 1, below, above)
    return np.where(answers.predicted != (answers.labels == 1), np.clip(doubt, 1e-9, 1.0), 0.0)


def equal_positions(rows: LabelledRows) -> list[Index]:
    """The first groups of rows that are equal to the model but labelled differently: one row per label."""
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


def _near_rows(run: Run, near: Near) -> dict[str, list[list[NearRow]]]:
    """The nearest training rows of each query, by part."""
    texts = _texts(run, "train", near.rows, near.positions(), MAX_NEAR_CHARACTERS)

    def row_at(position: int, cosine: float) -> NearRow:
        text = texts[position]
        return NearRow(
            row=int(near.rows.row_of[position]),
            label=named(run.data.labels.names, near.rows.label_ids[position]),
            cosine=round(cosine, 4),
            text=text.text,
            pair=text.pair,
        )

    return {
        part: [list(map(row_at, *each)) for each in zip(positions.tolist(), cosines.tolist(), strict=True)]
        for part, (positions, cosines) in near.found.items()
    }


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
    """The fields that every finding of a row has."""
    text = texts[position]
    return RowToCheck(
        finding=finding,
        part=part,
        row=int(rows.row_of[position]),
        text=text.text,
        pair=text.pair,
        is_decoded=text.is_decoded or None,
        label=named(run.data.labels.names, rows.label_ids[position]),
    )


def _texts(
    run: Run, part: Part, rows: LabelledRows, positions: Index, limit: int = MAX_CHARACTERS
) -> dict[int, _Text]:
    """The texts of rows by position: read from the source, or decoded from tokens if the source has changed."""
    if not len(positions):
        return {}
    read: dict[int, tuple[str, str | None]] = {}
    try:
        read = _read_again(run, part, set(rows.row_of[positions].tolist()))
    except Exception:  # whatever is wrong with the source now, a text to show is no reason to lose a run
        read = {}
    return {
        position: _text(run, rows, position, read.get(int(rows.row_of[position])), limit)
        for position in positions.tolist()
    }


def _read_again(run: Run, part: Part, wanted: set[int]) -> dict[int, tuple[str, str | None]]:
    """Map row numbers to text and second text."""
    recipe = run.recipe
    own = {"train": recipe.data, "validation": recipe.validation, "test": recipe.test}[part]
    location = own or recipe.data
    if location == "-":  # standard input cannot be read twice
        return {}
    source = open_examples(
        resolve_location(location),
        columns_of(recipe),
        labels="required",
        split=part if own else "train",
    )
    return texts_at(source, wanted)


def _text(
    run: Run, rows: LabelledRows, position: int, read: tuple[str, str | None] | None, limit: int
) -> _Text:
    here = rows[np.array([position])]
    tokens = here.tokens()[0]
    if read is not None:
        text, pair = read
        # hours may have passed: use the text only if it still has the same tokens
        again = run.data.tokenizer.encode([text], None if pair is None else [pair])
        if np.array_equal(again.input_ids[0], tokens) and again.full_lengths[0] == here.full_lengths[0]:
            return _Text(
                shown_text(text, limit), None if pair is None else shown_text(pair, limit), is_decoded=False
            )
    start = int(here.second_starts()[0])
    first, second = (run.data.tokenizer.decode(ids.tolist()) for ids in (tokens[:start], tokens[start:]))
    pair = shown_text(second, limit) if len(tokens) > start else None
    return _Text(shown_text(first, limit), pair, is_decoded=True)
