"""Prediction with a trained classifier in Spark: a function for columns of texts.

import leantune.spark

predict = leantune.spark.predict_udf("runs/mine")
predicted = frame.withColumn("prediction", predict(frame.text))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from leantune.cluster.columns import LABEL, SCORE, checked_texts, predicted
from leantune.cluster.shipping import ShippedClassifier, checksum_of, pack_classifier, packed_file
from leantune.errors import UsageError
from leantune.inference.text_classifier import CHUNK_ROWS, TextClassifier

__all__ = ["predict_udf"]

PROBABILITIES = "probabilities"


def predict_udf(
    run: str | Path,
    *,
    precision: str | None = None,
    probabilities: bool = False,
    batch_size: int = CHUNK_ROWS,
    base: str | Path | None = None,
    labels: Sequence[str] | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Return a pandas UDF that computes a struct of ``label`` and ``score`` for each text of a column.

    The classifier becomes a file of the active session, which Spark copies to each executor once. (Each Python worker
    would read it again if it were in the function's closure.) Each node unpacks it once, and each Python worker loads
    it once. A worker uses as many threads as ``spark.task.cpus``.

    Args:
        run: a folder that `leantune.load` accepts. For a text pair classifier, the UDF takes two columns.
        precision: precision of the encoder; see `leantune.load`.
        probabilities: whether to add ``probabilities`` to the struct, in the order of `TextClassifier.classes`.
        batch_size: largest number of rows per batch. Spark limits it to
            ``spark.sql.execution.arrow.maxRecordsPerBatch``.
        base: the pretrained encoder of an adapter; None for the one named in its config.
        labels: names of the classes; see `leantune.load`.
        trust_remote_code: whether to run code that comes with the model.

    Raises:
        UsageError: if pyspark or pandas is not installed, there is no active session, or the folder contains no
            classifier.
        CheckpointError: if the run is not finished or damaged.

    In a worker, a cell that is not a text raises a DataError with its row.
    """
    try:
        import pandas  # noqa: F401 - pyspark needs it later, in another process
        from pyspark.ml.functions import predict_batch_udf
        from pyspark.sql import SparkSession
        from pyspark.sql import types as sql
    except ModuleNotFoundError as error:
        package = (error.name or "pyspark").partition(".")[0]
        raise UsageError(f"leantune.spark needs {package}: pip install 'leantune[spark]'") from error
    session = SparkSession.getActiveSession()
    if session is None:
        raise UsageError(
            "leantune.spark: no active Spark session; create one with SparkSession.builder.getOrCreate()"
        )
    content = pack_classifier(run, base=base)
    file = packed_file(content)
    session.addArtifacts(str(file), file=True)
    shipped = ShippedClassifier(
        sha256=checksum_of(content),
        fetch=partial(_fetch, file.name),
        labels=None if labels is None else tuple(labels),
        precision=precision,
        trust_remote_code=trust_remote_code,
    )
    fields = [sql.StructField(LABEL, sql.StringType()), sql.StructField(SCORE, sql.DoubleType())]
    if probabilities:
        fields.append(sql.StructField(PROBABILITIES, sql.ArrayType(sql.DoubleType())))
    return predict_batch_udf(
        partial(_make_predict, shipped, probabilities),
        return_type=sql.StructType(fields),
        batch_size=batch_size,
    )


def _fetch(name: str) -> bytes:
    from pyspark import SparkFiles

    return Path(SparkFiles.get(name)).read_bytes()


def _make_predict(shipped: ShippedClassifier, probabilities: bool) -> Callable[..., Mapping[str, Any]]:
    """Load the classifier and return the function for a batch. Spark requires one argument per column."""
    trained = shipped.load()

    def predict(texts: Any) -> Mapping[str, Any]:
        return _predicted(trained, probabilities, texts, None)

    def predict_pairs(texts: Any, pairs: Any) -> Mapping[str, Any]:
        return _predicted(trained, probabilities, texts, pairs)

    return predict_pairs if trained.settings.takes_pairs else predict


def _predicted(trained: TextClassifier, probabilities: bool, texts: Any, pairs: Any) -> Mapping[str, Any]:
    given = {"texts": texts} if pairs is None else {"texts": texts, "second texts": pairs}
    checked = [
        checked_texts(cells.tolist(), name, lambda i: f"row {i} of a batch (counted from 0)")
        for name, cells in given.items()
    ]
    names, scores, of_classes = predicted(trained, checked[0], checked[1] if len(checked) > 1 else None)
    columns = {LABEL: np.array(names, dtype=object), SCORE: scores}
    return columns | {PROBABILITIES: of_classes} if probabilities else columns
