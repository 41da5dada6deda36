"""A trained classifier in Spark: a function for columns of texts.

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
    """A pandas UDF that gives a struct of ``label`` and ``score`` for each text of a column.

    The classifier becomes a file of the active session. Spark copies it to each executor once, whatever its size: what
    a function has in its closure would be read again by each Python worker. Each node unpacks it once, and each Python
    worker loads it once. Spark gives a worker as many threads as ``spark.task.cpus``.

    Args:
        run: what `leantune.load` takes. A classifier of pairs makes a UDF of two columns.
        precision: as `leantune.load` takes it.
        probabilities: add ``probabilities`` to the struct: of all classes, in the order of `TextClassifier.classes`.
        batch_size: most rows that are classified at once. Spark hands over no more than
            ``spark.sql.execution.arrow.maxRecordsPerBatch``.
        base: the pretrained encoder of an adapter; None: the one that it names.
        labels: names of the classes, as `leantune.load` takes them.
        trust_remote_code: allow code that comes with the model.

    Raises:
        UsageError: if pyspark or pandas is not installed, there is no session, or nothing to load.
        CheckpointError: if the run is not finished or damaged.

    In a worker, a cell that is no text raises a DataError with its row.
    """
    try:
        import pandas  # noqa: F401 - pyspark asks for it when the function is used, in another process
        from pyspark.ml.functions import predict_batch_udf
        from pyspark.sql import SparkSession
        from pyspark.sql import types as sql
    except ModuleNotFoundError as error:
        package = (error.name or "pyspark").partition(".")[0]
        raise UsageError(f"leantune.spark needs {package}: pip install 'leantune[spark]'") from error
    session = SparkSession.getActiveSession()
    if session is None:
        raise UsageError(
            "leantune.spark: no Spark session; make one first: SparkSession.builder.getOrCreate()"
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
    """What Spark calls with the columns of a batch; it counts the arguments."""
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
