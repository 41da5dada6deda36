"""Prediction with a trained classifier in Ray Data: a class for ``map_batches``.

    import leantune.ray

    predictor = leantune.ray.predictor_class("runs/mine")
    predicted = dataset.map_batches(predictor, compute=ray.data.ActorPoolStrategy(size=4), batch_size=4096)

``import ray`` in this module imports the Ray library, because imports are absolute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from leantune.cluster.columns import LABEL, SCORE, checked_texts, predicted
from leantune.cluster.connection import import_ray
from leantune.cluster.shipping import ShippedClassifier, checksum_of, pack_classifier
from leantune.errors import DataError
from leantune.system.messages import listed, nearest, shown

__all__ = ["predictor_class"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """Settings of a predictor."""

    shipped: ShippedClassifier
    text_column: str | None
    text_pair_column: str | None
    probabilities: bool
    prefix: str


def predictor_class(
    run: str | Path,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    precision: str | None = None,
    probabilities: bool = False,
    prefix: str = "",
    base: str | Path | None = None,
    labels: Sequence[str] | None = None,
    trust_remote_code: bool = False,
) -> type:
    """Return a class for ``map_batches`` of Ray Data that adds the columns ``label`` and ``score`` to each batch.

    The classifier is put into Ray's object store. Each node unpacks it once, and each actor loads it once, so that
    nodes need not share a disk. An actor uses as many threads as its ``num_cpus``. Batches may be of NumPy, pandas or
    pyarrow and are returned in the same format with all their columns. The class is valid only for the current
    connection to Ray: if you call ``ray.init``, call it first.

    Args:
        run: a folder that `leantune.load` accepts.
        text_column: column of the texts; None for the column used in training, else ``text``.
        text_pair_column: column of the second texts; None for the column used in training, if any.
        precision: precision of the encoder; see `leantune.load`.
        probabilities: whether to add a column ``p_LABEL`` for every class.
        prefix: prefix for the names of the new columns, for rows that already have columns with these names.
        base: the pretrained encoder of an adapter; None for the one named in its config.
        labels: names of the classes; see `leantune.load`.
        trust_remote_code: whether to run code that comes with the model.

    Raises:
        UsageError: if Ray is not installed, or the folder contains no classifier.
        CheckpointError: if the run is not finished or damaged.

    The class raises:
        DataError: if a text column does not exist, a new column already exists, or a cell is not a text.
    """
    ray = import_ray("leantune.ray")
    content = pack_classifier(run, base=base)
    settings = _Settings(
        shipped=ShippedClassifier(
            sha256=checksum_of(content),
            fetch=partial(_fetch, ray.put(content)),
            labels=None if labels is None else tuple(labels),
            precision=precision,
            trust_remote_code=trust_remote_code,
        ),
        text_column=text_column,
        text_pair_column=text_pair_column,
        probabilities=probabilities,
        prefix=prefix,
    )

    class Predictor(_Predictor):
        """Predicts labels for batches of texts."""

        def __init__(self) -> None:
            super().__init__(settings)

    return Predictor


def _fetch(reference: Any) -> bytes:
    content: bytes = import_ray("leantune.ray").get(reference)
    return content


class _Predictor:
    """A classifier in an actor."""

    def __init__(self, settings: _Settings) -> None:
        import torch

        cores = import_ray("leantune.ray").get_runtime_context().get_assigned_resources().get("CPU", 1.0)
        self._trained = settings.shipped.load()
        torch.set_num_threads(max(1, math.floor(cores)))  # overrides the environment of the node
        self._settings = settings
        inference = self._trained.settings
        self._column = settings.text_column or inference.text_column or "text"
        self._pair_column = settings.text_pair_column or inference.text_pair_column

    def __call__(self, batch: Any) -> Any:
        """Return the batch with the new columns.

        Raises:
            DataError: if a text column does not exist, a new column already exists, or a cell is not a text.
        """
        texts = self._texts(batch, self._column)
        pairs = None if self._pair_column is None else self._texts(batch, self._pair_column)
        names, scores, probabilities = predicted(self._trained, texts, pairs)
        columns: dict[str, Any] = {LABEL: np.array(names, dtype=object), SCORE: scores}
        if self._settings.probabilities:
            columns |= {f"p_{name}": probabilities[:, i] for i, name in enumerate(self._trained.labels.names)}
        return _with_columns(
            batch, {f"{self._settings.prefix}{name}": each for name, each in columns.items()}
        )

    def _texts(self, batch: Any, column: str) -> list[str]:
        names = _names_of(batch)
        if column not in names:
            raise DataError(
                f"no column {shown(column)} in the rows, which have {listed(names)}{nearest(column, names)}: set "
                "text_column or text_pair_column"
            )
        return checked_texts(_cells_of(batch, column), column, partial(_row_name, batch, column))


def _row_name(batch: Any, column: str, position: int) -> str:
    """Return a name for a row: its position in the batch and the value of its first other column."""
    others = (name for name in _names_of(batch) if name != column)
    known = next((f", {name}={shown(_cells_of(batch, name)[position])}" for name in others), "")
    return f"row {position} of a batch (counted from 0{known})"


def _names_of(batch: Any) -> list[str]:
    """Return the column names of a NumPy, pandas or pyarrow batch."""
    if isinstance(batch, Mapping):
        return list(batch)
    return list(getattr(batch, "column_names", batch.columns))


def _cells_of(batch: Any, column: str) -> list[Any]:
    """Return a column as Python values, with None for missing values of pandas or pyarrow."""
    if isinstance(batch, Mapping):
        cells: list[Any] = batch[column].tolist()
    elif hasattr(batch, "column_names"):
        cells = batch.column(column).to_pylist()
    else:
        series = batch[column].astype(object)
        cells = series.where(series.notna(), None).tolist()
    return cells


def _with_columns(batch: Any, columns: Mapping[str, Any]) -> Any:
    """Return the batch with additional columns.

    Raises:
        DataError: if a column already exists.
    """
    if taken := [name for name in columns if name in _names_of(batch)]:
        raise DataError(
            f"the rows already have a column {shown(taken[0])}: set prefix, which is added to the new column names"
        )
    if isinstance(batch, Mapping):
        return {**batch, **columns}
    if not hasattr(batch, "column_names"):
        return batch.assign(**columns)
    import pyarrow as pa

    for name, values in columns.items():
        batch = batch.append_column(
            name, pa.array(values, pa.string() if values.dtype == object else pa.float64())
        )
    return batch
