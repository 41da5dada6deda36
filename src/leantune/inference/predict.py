"""Rows in, the same rows out, in order, with a label and a score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from leantune.data.cells import list_of_texts
from leantune.data.read import ExampleBatch, ExampleSource
from leantune.errors import CheckpointError, DataError, UsageError
from leantune.inference.batches import softmax
from leantune.inference.load import RunClassifier
from leantune.inference.writers import Predictions, PredictionWriter
from leantune.system.atomic import atomic_file

CHUNK_ROWS = 8192
"""Rows read at once: enough to sort by length, few enough for any memory."""


@dataclass(frozen=True, slots=True)
class PredictionSummary:
    """What a prediction run did."""

    rows: int
    truncated_rows: int
    empty_rows: int


def predict_rows(
    trained: RunClassifier, batch: ExampleBatch, batch_size: int
) -> tuple[Predictions, npt.NDArray[np.bool_]]:
    """Probabilities of one chunk in its own order, and which rows were truncated ``(N,)``.

    Raises:
        CheckpointError: naming the first row whose prediction is not finite.
    """
    encoded = trained.tokeniser.encode(batch.texts, batch.pairs)
    logits = trained.logits(encoded, batch_size)
    probabilities = softmax(logits)
    bad = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(bad):
        raise CheckpointError(
            f"row {batch.start + int(bad[0])} (counted from 0): the prediction is not a number: the weights of the run "
            "are damaged, or its numbers overflow in this precision (--precision fp32 tells)"
        )
    return Predictions(batch.ids, probabilities), encoded.full_lengths > encoded.lengths


def predict_texts(
    trained: RunClassifier, texts: Sequence[str], pairs: Sequence[str] | None = None
) -> npt.NDArray[np.float64]:
    """Class probabilities ``(N, C)`` of texts in memory.

    Raises:
        DataError: for what is no text, or another number of second texts.
        UsageError: for pairs where single texts were trained on, or the other way round.
    """
    is_of_pairs = trained.recipe.text_pair_column is not None
    if is_of_pairs != (pairs is not None):
        raise UsageError(
            f"the run was trained on {'pairs of texts' if is_of_pairs else 'single texts'}: give "
            f"{'the second texts as pairs' if is_of_pairs else 'no pairs'}"
        )
    texts = list_of_texts(texts)
    pairs = None if pairs is None else list_of_texts(pairs)
    if pairs is not None and len(pairs) != len(texts):
        raise DataError(f"{len(texts)} texts and {len(pairs)} second texts, expected as many")
    parts = [np.empty((0, len(trained.labels.names)))]
    for start in range(0, len(texts), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        batch = ExampleBatch(start, [""] * len(texts[chunk]), texts[chunk], pairs and pairs[chunk], None)
        parts.append(predict_rows(trained, batch, trained.recipe.eval_batch_size)[0].probabilities)
    return np.concatenate(parts)


def predict_source(
    trained: RunClassifier, source: ExampleSource, batch_size: int
) -> Iterator[tuple[Predictions, int, int]]:
    """Chunks of predictions in input order, each with its truncated and its empty rows."""
    for batch in source.batches(CHUNK_ROWS):
        predictions, truncated = predict_rows(trained, batch, batch_size)
        yield predictions, int(truncated.sum()), sum(not text.strip() for text in batch.texts)


def predict_to(
    trained: RunClassifier,
    source: ExampleSource,
    output: str,
    *,
    writer: Callable[[Path | None], PredictionWriter],
    batch_size: int,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> PredictionSummary:
    """Classify every row of ``source`` into ``output`` (a path, or ``-`` for standard output).

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
