"""Logits of many rows, computed on the same packed path as training, in the order of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import numpy.typing as npt
import torch

from leantune.data.tokens.dataset import Index, LabelledRows, by_length, evenly
from leantune.evaluation.confidence import Answers
from leantune.evaluation.metrics import Metrics
from leantune.evaluation.tasks import PairAnswers, task_of
from leantune.model.classifier import Classifier
from leantune.packing.batch import PackedBatch
from leantune.system import distributed

Floats = npt.NDArray[np.float64]

MAX_BATCH_TOKENS_OF_A_GPU = 65_536
"""Token limit per batch on a GPU, without gradients; with small batches the GPU waits for its next kernel."""

_on_rows: ContextVar[Callable[[int, int], None] | None] = ContextVar("on_rows", default=None)


@contextmanager
def watching_rows(on_rows: Callable[[int, int], None]) -> Iterator[None]:
    """Call ``on_rows`` with the number of rows done and of all rows, after each batch that is computed meanwhile."""
    token = _on_rows.set(on_rows)
    try:
        yield
    finally:
        _on_rows.reset(token)


def batches_for(classifier: Classifier, lengths: npt.NDArray[np.int32], batch_size: int) -> Iterator[Index]:
    """Yield positions of all rows, in the batches that are fastest for ``classifier``."""
    if classifier.mixes_lengths:
        return evenly(lengths, batch_size)
    if classifier.device.type == "cpu":
        return by_length(lengths, batch_size)
    return by_length(lengths, batch_size, MAX_BATCH_TOKENS_OF_A_GPU)


def map_rows(
    classifier: Classifier,
    rows: LabelledRows,
    batch_size: int,
    function: Callable[[PackedBatch], torch.Tensor],
) -> npt.NDArray[np.float32]:
    """Apply ``function`` to every row, without gradients and dropout: ``(N, ...)``.

    The result has the order of ``rows``, whatever the batches were.
    """
    if distributed.world_size() > 1:
        return _map_shared(classifier, rows, batch_size, function)
    return map_own_rows(classifier, rows, batch_size, function)


def _map_shared(
    classifier: Classifier,
    rows: LabelledRows,
    batch_size: int,
    function: Callable[[PackedBatch], torch.Tensor],
) -> npt.NDArray[np.float32]:
    """Compute one share in each process, and gather all shares in every process."""
    size = distributed.world_size()
    share = np.arange(distributed.rank(), len(rows), size)
    own = map_own_rows(classifier, rows[share], batch_size, function) if len(share) else None
    parts = [part for part in distributed.gather(own) if part is not None]
    whole = np.empty((len(rows), *parts[0].shape[1:]), dtype=np.float32)
    for i, part in enumerate(parts):
        whole[i::size] = part
    return whole


def map_own_rows(
    classifier: Classifier,
    rows: LabelledRows,
    batch_size: int,
    function: Callable[[PackedBatch], torch.Tensor],
) -> npt.NDArray[np.float32]:
    """Apply `map_rows` in this process only."""
    was_training = classifier.training
    classifier.eval()

    def batch_at(positions: Index) -> PackedBatch:
        return classifier.batch_of(rows[positions])

    values = map_batches(classifier, rows.lengths, batch_size, batch_at, function)
    classifier.train(was_training)
    return values


def map_batches(
    classifier: Classifier,
    lengths: npt.NDArray[np.int32],
    batch_size: int,
    batch_at: Callable[[Index], PackedBatch],
    function: Callable[[PackedBatch], torch.Tensor],
) -> npt.NDArray[np.float32]:
    """Apply ``function`` to N rows without gradients: ``(N, ...)`` in the order of ``lengths``.

    Args:
        classifier: decides which batches are fast.
        lengths: ``(N,)`` number of tokens in each row; at least one row.
        batch_size: largest number of texts in a batch.
        batch_at: makes the batch of the rows at some positions, numbered from 0 within them.
        function: returns a tensor with one entry per text of the batch.
    """
    out: npt.NDArray[np.float32] | None = None
    on_rows, done = _on_rows.get(), 0
    with torch.inference_mode():
        for positions in batches_for(classifier, lengths, batch_size):
            batch = batch_at(positions)
            values = function(batch).float().cpu().numpy()  # one host sync per batch
            if out is None:
                out = np.empty((len(lengths), *values.shape[1:]), dtype=np.float32)
            out[positions[batch.rows.cpu().numpy()]] = values
            if on_rows is not None:
                done += len(positions)
                on_rows(done, len(lengths))
    assert out is not None
    return out


def predict_probabilities(
    classifier: Classifier,
    rows: LabelledRows,
    batch_size: int,
) -> Floats:
    """Class probabilities ``(N, C)`` float64."""
    logits = map_rows(classifier, rows, batch_size, classifier)
    return task_of(is_multi_label=rows.is_multi_label).probabilities(logits)


def evaluate(
    classifier: Classifier,
    rows: LabelledRows,
    label_names: tuple[str, ...],
    batch_size: int,
    thresholds: Floats | None = None,
) -> tuple[Metrics, Answers | PairAnswers]:
    """Metrics on labelled rows, and the answer for each row.

    With several labels per text, ``thresholds (C,)`` decide; None: the thresholds that are best on these rows.
    """
    task = task_of(is_multi_label=rows.is_multi_label)
    probabilities = predict_probabilities(classifier, rows, batch_size)
    metrics = task.evaluate(probabilities, rows.label_ids, label_names, thresholds)
    return metrics, task.answers(probabilities, rows.label_ids, thresholds)
