"""Read the rows of a finished run again from the source that its recipe names."""

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
    """Read the rows of a run as it had them.

    Args:
        run: the run folder.
        record: the run's record.
        recipe: the run's recipe.
        advice: what the error message should suggest if the rows cannot be read.
        with_test: also read the test rows.

    Raises:
        UsageError: if a source no longer exists.
        DataError: if a source has changed since training.
        CheckpointError: if the record of the run is damaged.
    """
    if "-" in (recipe.data, recipe.validation):
        raise UsageError(f"{run} was trained on standard input, which cannot be read again; {advice}")
    try:
        # use the run's copy of the tokenizer: its encoder may be gone
        again = prepare_data(
            replace(recipe, model=str(run / "merged"), test=recipe.test if with_test else None)
        )
    except (DataError, UsageError) as error:
        raise type(error)(
            f"the rows that {run} was trained on cannot be read again: {error}; {advice}"
        ) from error
    then, now = record.data, again.description
    if then is None:
        raise CheckpointError(f"{run / RECORD}: damaged: it has no data section")
    found = now.parts()
    for name, before in then.parts().items():
        if name in found and before.sha256 != found[name].sha256:
            raise DataError(f"has changed since {run} was trained on it; {advice}", path=found[name].source)
    return again


def texts_at(source: ExampleSource, wanted: Set[int]) -> dict[int, tuple[str, str | None]]:
    """Map each row number of ``wanted``, from 0, that the source has to its text and second text."""
    found: dict[int, tuple[str, str | None]] = {}
    for batch in source.batches():
        for row in [row for row in wanted if batch.start <= row < batch.start + len(batch.texts)]:
            at = row - batch.start
            found[row] = batch.texts[at], batch.pairs[at] if batch.pairs else None
        if len(found) == len(wanted):
            break
    return found
