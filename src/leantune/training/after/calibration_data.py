"""Rows for calibrating int8 and for measuring it: from a run, read again, or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from leantune.assets.download import default_cache_dir, resolve_location
from leantune.config import Recipe, recipe_of_run
from leantune.config.classifier_file import InferenceSettings
from leantune.config.record.run import FinishedRecord, read_finished_record
from leantune.data.labels import LabelMap
from leantune.data.text.columns import Columns, columns_for
from leantune.data.text.read import open_examples
from leantune.data.tokens.dataset import LabelledRows
from leantune.data.tokens.table import tokenize
from leantune.data.tokens.tokenization import Tokenizer
from leantune.errors import DataError, UsageError
from leantune.inference.export.openvino import CALIBRATION_ROWS, CalibrationData
from leantune.inference.load import kind_of, load
from leantune.training.after.rows_again import read_rows_again
from leantune.training.before.dataset import PreparedData, columns_of, labelled_rows

DEFAULT_SEED = 42
"""Seed for choosing rows when no recipe gives one."""


def calibration_data(source: Path, data: str | None, *, trust_remote_code: bool = False) -> CalibrationData:
    """Rows to calibrate int8 with, and others to measure it on.

    Args:
        source: a finished run, or a merged model.
        data: labelled rows, with the same columns as the run's; None: a sample of the run's training rows for
            calibration and its validation rows for measurement.
        trust_remote_code: allow code that comes with a merged model.

    Raises:
        UsageError: if the rows cannot be found, or the run was trained on all of them.
        CheckpointError: if the record of the run is damaged.
        DataError: if the source has changed since training, or has invalid rows or labels.
    """
    if kind_of(source) != "run":
        if data is None:
            raise UsageError(
                f"{source} is not a run, so its rows are unknown: give labelled rows with --data FILE"
            )
        trained = load(source, trust_remote_code=trust_remote_code)
        columns = columns_for(trained.settings)
        return _split(_read(data, columns, trained.tokenizer, trained.labels), data, seed=DEFAULT_SEED)
    record = read_finished_record(source)
    recipe = recipe_of_run(source, record.recipe)
    if data is not None:
        tokenizer = Tokenizer.of_run(source / "merged", recipe.max_length)
        labels = LabelMap.of_record(record.labels)
        return _split(_read(data, columns_of(recipe), tokenizer, labels), data, seed=recipe.seed)
    own = _validation_rows(source, record, recipe)
    sample = np.random.default_rng(recipe.seed).permutation(len(own.train))[:CALIBRATION_ROWS]
    return CalibrationData(calibration=own.train[sample], measured=own.validation, name="validation")


def rows_to_measure(run: Path, data: str | None, **columns: Any) -> tuple[LabelledRows, str]:
    """Rows that a run was not trained on, and their name.

    Args:
        run: a finished run.
        data: labelled rows; None: the validation rows, which chose the run's checkpoint.
        columns: names of columns of ``data`` that differ from those of training; see `columns_for`.

    Raises:
        UsageError: if the rows cannot be found, or the run was trained on all of them.
        CheckpointError: if the record of the run is damaged.
        DataError: if the source has changed since training, or has invalid rows or labels.
    """
    record = read_finished_record(run)
    recipe = recipe_of_run(run, record.recipe)
    if data is not None:
        tokenizer = Tokenizer.of_run(run / "merged", recipe.max_length)
        wanted = columns_for(InferenceSettings.of(recipe), **columns)
        return _read(data, wanted, tokenizer, LabelMap.of_record(record.labels)), data
    return _validation_rows(run, record, recipe).validation, "validation"


def _validation_rows(run: Path, record: FinishedRecord, recipe: Recipe) -> PreparedData:
    """The rows of a run that held some out from training."""
    if record.refit:
        raise UsageError(
            f"{run} was refitted on its validation rows, so they cannot measure it; give labelled rows "
            "with --data FILE"
        )
    own = read_rows_again(run, record, recipe, advice="give labelled rows with --data FILE")
    if not len(own.validation):
        raise UsageError(f"{run} held out no rows to measure on; give labelled rows with --data FILE")
    return own


def _split(rows: LabelledRows, data: str, *, seed: int) -> CalibrationData:
    if len(rows) < 2:
        raise DataError("1 row, expected some to calibrate with and others to measure on", path=data)
    order = np.random.default_rng(seed).permutation(len(rows))
    count = min(CALIBRATION_ROWS, len(rows) // 2)
    return CalibrationData(calibration=rows[order[:count]], measured=rows[order[count:]], name=data)


def _read(data: str, columns: Columns, tokenizer: Tokenizer, labels: LabelMap) -> LabelledRows:
    source = open_examples(resolve_location(data), columns, labels="required")
    table = tokenize(source, tokenizer, default_cache_dir() / "tokens")
    return labelled_rows(source, table, labels)
