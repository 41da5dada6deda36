"""Metrics of a trained classifier on labelled rows."""

from __future__ import annotations

import numpy as np

from leantune.data.text.read import ExampleSource
from leantune.data.text.unusable import usable_batches
from leantune.evaluation.metrics import Metrics
from leantune.evaluation.tasks import task_of
from leantune.inference.predict import predict_rows
from leantune.inference.text_classifier import CHUNK_ROWS, TextClassifier


def measure(trained: TextClassifier, source: ExampleSource, batch_size: int) -> Metrics:
    """Classify every row and compare the predictions with the labels.

    Raises:
        DataError: for a label that the model does not know, naming the row.
    """
    probabilities, label_ids = [], []
    for batch, rows in usable_batches(source, CHUNK_ROWS):
        assert batch.labels is not None
        label_ids.append(
            trained.labels.encode(
                batch.labels,
                source.name,
                rows=rows,
                column=source.columns.label,
                locate=source.locate,
            )
        )
        predictions, _ = predict_rows(trained, batch, batch_size)
        probabilities.append(predictions.probabilities)
    task = task_of(is_multi_label=trained.labels.is_multi_label)
    return task.evaluate(
        np.concatenate(probabilities), np.concatenate(label_ids), trained.labels.names, trained.thresholds
    )
