"""The rows that a finished run was made of, read again from where its recipe says."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from pathlib import Path

from leantune.config import Recipe
from leantune.config.record.run import RECORD, FinishedRecord
from leantune.data.text.read import ExampleSource
from leantune.errors import CheckpointError, DataError, UsageError
from leantune.training.before.dataset import PreparedData, prepare_data


def read_rows_again(
    run: Path, record: FinishedRecord, recipe: Recipe, *, advice: str, with_test: bool = False
) -> PreparedData:
    """The rows of a run as it had them.

    Args:
        run: the run folder.
        record: of the run.
        recipe: of the run.
        advice: what to do if they cannot be had.
        with_test: whether the test rows are wanted, too.

    Raises:
        UsageError: if a source is not there any more.
        DataError: if one has changed since training.
        CheckpointError: if the record of the run is damaged.
    """
    if "-" in (recipe.data, recipe.validation):
        raise UsageError(f"{run} was trained on standard input, which cannot be read again; {advice}")
    try:
        # the tokenizer of the run is that of its encoder, which may be gone
        again = prepare_data(
            replace(recipe, model=str(run / "merged"), test=recipe.test if with_test else None)
        )
    except (DataError, UsageError) as error:
        raise type(error)(
            f"the rows that {run} was trained on cannot be read again: {error}; {advice}"
        ) from error
    then, now = record.data, again.description
    if then is None:
        raise CheckpointError(f"{run / RECORD}: damaged: no data in it")
    found = now.parts()
    for name, before in then.parts().items():
        if name in found and before.sha256 != found[name].sha256:
            raise DataError(f"has changed since {run} was trained on it; {advice}", path=found[name].source)
    return again


def texts_at(source: ExampleSource, wanted: Set[int]) -> dict[int, tuple[str, str | None]]:
    """Row number, from 0, to text and second text, of those of ``wanted`` that are there."""
    found: dict[int, tuple[str, str | None]] = {}
    for batch in source.batches():
        for row in [row for row in wanted if batch.start <= row < batch.start + len(batch.texts)]:
            at = row - batch.start
            found[row] = batch.texts[at], batch.pairs[at] if batch.pairs else None
        if len(found) == len(wanted):
            break
    return found
