"""Predict labels and scores for the rows of a source, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from leantune.data.text.read import ExampleBatch, ExampleSource
from leantune.inference.text_classifier import CHUNK_ROWS, TextClassifier
from leantune.inference.writers import Predictions, PredictionWriter
from leantune.system.atomic import atomic_file


@dataclass(frozen=True, slots=True)
class PredictionSummary:
    """Counts of a prediction run."""

    rows: int
    truncated_rows: int
    empty_rows: int


def predict_rows(
    trained: TextClassifier, batch: ExampleBatch, batch_size: int, *, skips_blank: bool = False
) -> tuple[Predictions, npt.NDArray[np.bool_]]:
    """Probabilities of one chunk in its own order, and which rows were truncated ``(N,)``.

    Raises:
        CheckpointError: naming the first row with a prediction that is not finite.
    """
    encoded = trained.tokenizer.encode(batch.texts, batch.pairs)
    probabilities = trained.probabilities(encoded, batch_size, start=batch.start)
    is_blank = batch.is_blank if skips_blank else None
    return Predictions(batch.ids, probabilities, is_blank), encoded.full_lengths > encoded.lengths


def predict_source(
    trained: TextClassifier, source: ExampleSource, batch_size: int
) -> Iterator[tuple[Predictions, int, int]]:
    """Yield chunks of predictions in input order, with their numbers of truncated and of empty rows."""
    for batch in source.batches(CHUNK_ROWS):
        predictions, truncated = predict_rows(
            trained, batch, batch_size, skips_blank=source.columns.skips_blank
        )
        yield predictions, int(truncated.sum()), sum(batch.is_blank)


def predict_to(
    trained: TextClassifier,
    source: ExampleSource,
    output: str,
    *,
    writer: Callable[[Path | None], PredictionWriter],
    batch_size: int,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> PredictionSummary:
    """Classify every row of ``source`` into ``output``, a path or ``-`` for standard output.

    A file appears under its name only when it is complete.
    """

    def run(target: Path | None) -> PredictionSummary:
        rows = truncated = empty = 0
        with writer(target) as sink:
            for predictions, num_truncated, num_empty in predict_source(trained, source, batch_size):
                sink.write(predictions)
                rows += len(predictions.ids)
                truncated += num_truncated
                empty += num_empty
                on_rows(rows)
        return PredictionSummary(rows, truncated, empty)

    if output == "-":
        return run(None)
    with atomic_file(Path(output)) as temporary:
        return run(temporary)
