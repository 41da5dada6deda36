"""Open classifiers that were exported to another library, from their folder in a run.

Shapes: N rows, S texts of a batch, L tokens that they are padded to, C classes.
"""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leantune.config import Recipe, recipe_of_run
from leantune.config.classifier_file import InferenceSettings
from leantune.config.record.run import read_finished_record, to_json
from leantune.data.labels import LabelMap
from leantune.data.tokens.dataset import Index, by_length
from leantune.data.tokens.tokenization import Encoded, Tokenizer
from leantune.errors import CheckpointError, UsageError, first_line
from leantune.inference.load import check_labels
from leantune.inference.text_classifier import Logits, TextClassifier
from leantune.model.pretrained import read_settings
from leantune.packing.padded import Inputs, padded_inputs
from leantune.system.checksums import FileRecord, find_difference
from leantune.system.damage import explained_damage
from leantune.system.file_names import entry_of
from leantune.system.json_files import read_json

ABOUT = "export.json"
"""File about an export: which run it belongs to, and what quantisation cost."""
LENGTH_MULTIPLE = 16
"""Multiple that lengths are padded to, because for every new shape OpenVINO compiles and ONNX Runtime plans again."""


def import_of_extra(name: str, purpose: str, extra: str) -> Any:
    """Import a library that is installed with an extra.

    Raises:
        UsageError: saying what to install for ``purpose``.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"{purpose} needs {name}, which cannot be imported ({first_line(error)}); "
            f"install it with: pip install 'leantune[{extra}]'"
        ) from error


@dataclass(frozen=True, slots=True)
class Compiled:
    """A model compiled in another library."""

    input_names: frozenset[str]
    run: Callable[[Inputs], Logits]
    """Computes the logits ``(S, C)`` of a padded batch."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExportedClassifier(TextClassifier):
    """The merged model in another library, computed on padded batches."""

    compiled: Compiled
    pad_id: int

    def logits(self, rows: Encoded, batch_size: int) -> Logits:
        """Logits ``(N, C)`` in the order of ``rows``."""
        logits = np.empty((len(rows.input_ids), len(self.labels.names)), dtype=np.float32)
        batches = padded_batches(
            rows,
            batch_size,
            names=self.compiled.input_names,
            longest=self.tokenizer.max_length,
            pad_id=self.pad_id,
        )
        for positions, inputs in batches:
            logits[positions] = self.compiled.run(inputs)
        return logits


def open_export(
    folder: Path,
    labels: LabelMap,
    settings: InferenceSettings,
    compiled: Compiled,
    *,
    max_length: int,
    metrics: Mapping[str, Any] | None = None,
) -> ExportedClassifier:
    """The classifier in an export folder.

    Raises:
        CheckpointError: if the folder is damaged, or its labels differ from ``labels``.
    """
    with explained_damage(folder):
        described = read_settings(str(folder))
        check_labels(folder, described, labels)
    return ExportedClassifier(
        tokenizer=Tokenizer.of_run(folder, max_length),
        labels=labels,
        settings=settings,
        source=folder,
        metrics=metrics or {},
        compiled=compiled,
        pad_id=described.get("pad_token_id") or 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecord:
    """The fields of `ABOUT` that are read."""

    run_id: str
    files: dict[str, FileRecord] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An export in a run folder, with files verified to be unchanged."""

    folder: Path
    labels: LabelMap
    recipe: Recipe
    metrics: Mapping[str, Any]


def exported(run: Path, form: str) -> Exported:
    """The verified export ``form`` of a run.

    Raises:
        UsageError: if ``run`` is not a run folder, or the export does not exist.
        CheckpointError: if the export is damaged or belongs to another run.
    """
    record = read_finished_record(run)
    labels = LabelMap.of_record(record.labels)
    recipe = recipe_of_run(run, record.recipe)
    folder, command = entry_of(run, form), f"leantune export {shlex.quote(str(run))} --format {form}"
    if not folder.is_dir():
        raise UsageError(f"{folder}: not exported yet; make it with: {command}")
    try:
        about = read_json(entry_of(folder, ABOUT), ExportRecord)
    except (OSError, CheckpointError) as error:
        raise CheckpointError(f"{first_line(error)}; export again with: {command} --overwrite") from error
    if about.run_id != record.run_id:
        raise CheckpointError(
            f"{folder}: exported from an earlier run in this folder; export again with: {command} --overwrite"
        )
    problem = find_difference(folder, about.files or {})
    if problem:
        raise CheckpointError(
            f"{folder}: {problem} by {ABOUT}: it was damaged or changed after the export; export again with: "
            f"{command} --overwrite"
        )
    return Exported(folder=folder, labels=labels, recipe=recipe, metrics=to_json(record.metrics) or {})


def padded_batches(
    rows: Encoded, batch_size: int, *, names: Set[str], longest: int, pad_id: int
) -> Iterator[tuple[Index, Inputs]]:
    """Yield positions in ``rows`` and padded inputs, in batches of similar length.

    Args:
        rows: tokenized rows.
        batch_size: largest number of texts in a batch.
        names: names of the inputs that the model has, among those of transformers; each is ``(S, L)`` int64.
        longest: largest number of tokens with padding: the model may have no positions for more.
        pad_id: id of the padding token.
    """
    lengths = rows.lengths
    padded = np.minimum(-(-lengths // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, longest)
    for positions in by_length(padded, batch_size):
        inputs = padded_inputs(
            [rows.input_ids[row] for row in positions],
            rows.second_starts[positions].tolist(),
            length=int(padded[positions[0]]),
            pad_id=pad_id,
        )
        yield positions, {name: values for name, values in inputs.items() if name in names}
