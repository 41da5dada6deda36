"""Rows that cannot be used: they stop the run with their number and places, or are left out and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import compress

from leantune.data.label_column import Label
from leantune.data.text.read import ExampleBatch, ExampleSource
from leantune.data.text.table import Row, place_of
from leantune.errors import DataError
from leantune.system.messages import nearest_name, place_name, shown

SHOWN_ROWS = 5
SHOWN_LABELS = 10


def blank_rows_error(source: ExampleSource, rows: Sequence[int]) -> DataError:
    """Return the error for rows with a blank text.

    Args:
        source: where they are.
        rows: their 0-based numbers, at least one.
    """
    assert source.columns.text is not None
    found = "a blank text" if len(rows) == 1 else f"{len(rows):,} blank texts"
    return _at(
        source,
        rows,
        f"{found}, expected words: fill in or remove such rows, or leave them out with --skip-blank-rows "
        "(blank_rows=skip in a recipe)",
        source.columns.text,
    )


def unknown_labels_error(
    source: ExampleSource, labels: Sequence[Label], rows: Sequence[int], known: Sequence[str], advice: str
) -> DataError:
    """Return the error for rows with labels that the classifier does not have.

    Args:
        source: where they are.
        labels: the labels of all rows.
        rows: 0-based numbers of the rows with an unknown label, at least one.
        known: the names of the classes.
        advice: what else can be done, after a comma.
    """
    names = set(known)
    counts = Counter(name for row in rows for name in _names_of(labels[row]) if name not in names)

    def described(name: str) -> str:
        near = nearest_name(name, known)
        return f"{shown(name)} ({counts[name]:,} rows)" + (
            f", near {shown(near)}" if near is not None else ""
        )

    listed = ", ".join(described(name) for name, _ in counts.most_common(SHOWN_LABELS))
    more = f" and {len(counts) - SHOWN_LABELS:,} more" if len(counts) > SHOWN_LABELS else ""
    return _at(
        source,
        rows,
        f"{len(counts):,} labels that no training row has: {listed}{more}; expected one of {len(known):,} classes: "
        f"correct them{advice}",
        source.columns.label or "",
    )


def with_known_labels(labels: Sequence[Label], known: Sequence[str], *, is_multi_label: bool) -> list[bool]:
    """Return for each row whether all its labels are classes; rows of the other kind are left to `LabelMap.encode`."""
    names = set(known)
    return [isinstance(each, tuple) != is_multi_label or names.issuperset(_names_of(each)) for each in labels]


def usable_batches(source: ExampleSource, batch_rows: int) -> Iterator[tuple[ExampleBatch, Sequence[int]]]:
    """Yield the rows of a labelled source with a text, and their 0-based numbers.

    Raises:
        DataError: at the end, if there were rows with a blank text that are not to be skipped; and as
            `ExampleSource.batches`.
    """
    blank: list[int] = []
    for batch in source.batches(batch_rows):
        is_blank = batch.is_blank
        rows = range(batch.start, batch.start + len(batch.texts))
        if not any(is_blank):
            yield batch, rows
            continue
        blank += compress(rows, is_blank)
        has_text = [not each for each in is_blank]
        kept = only(batch, has_text)
        if kept.texts:
            yield kept, list(compress(rows, has_text))
    if blank and not source.columns.skips_blank:
        raise blank_rows_error(source, blank)


def only(batch: ExampleBatch, is_kept: Sequence[bool]) -> ExampleBatch:
    """Return the rows of a batch that are kept; its ``start`` is that of the whole batch."""
    return replace(
        batch,
        ids=list(compress(batch.ids, is_kept)),
        texts=list(compress(batch.texts, is_kept)),
        pairs=None if batch.pairs is None else list(compress(batch.pairs, is_kept)),
        labels=None if batch.labels is None else list(compress(batch.labels, is_kept)),
    )


def _names_of(label: Label) -> Iterable[str]:
    return label if isinstance(label, tuple) else (label,)


def _at(source: ExampleSource, rows: Sequence[int], message: str, column: str) -> DataError:
    """Return an error at the first of some rows, whose message names the next ones, too."""
    found = [source.locate(row) for row in rows[:SHOWN_ROWS]]
    place = place_of(found[0], source.name)
    return DataError(
        message,
        path=place.file,
        row=place.row,
        column=place_name(column),
        rows=list(map(_shown, found)) if len(rows) > 1 else (),
        num_more_rows=len(rows) - len(found),
    )


def _shown(row: Row) -> int | str:
    if isinstance(row, int):
        return row
    return row.file if row.row is None else f"{row.file}:{row.row}"
