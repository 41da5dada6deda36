"""A finished run, ready to classify: the merged model on packed batches, with its labels and columns."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leantune import hardware
from leantune.config import Recipe, load_recipe
from leantune.data.labels import LabelMap
from leantune.data.tokens import Tokeniser
from leantune.errors import CheckpointError, UsageError
from leantune.model import PackedClassifier
from leantune.packing.dropout import DropoutStream
from leantune.pretrained import config_of, first_line, load_classifier


@dataclass(frozen=True, slots=True)
class TrainedClassifier:
    """What a run folder holds, loaded."""

    classifier: PackedClassifier
    tokeniser: Tokeniser
    labels: LabelMap
    recipe: Recipe


def read_record(run: Path) -> dict[str, Any]:
    """``record.json`` of a finished run.

    Raises:
        UsageError: if ``run`` is no run folder.
        CheckpointError: if the run did not finish, or the record is damaged.
    """
    path = run / "record.json"
    if not path.is_file():
        raise UsageError(f"{run}: no run there (no record.json); give the output folder of 'leantune train'")
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
        status = record["status"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged: {first_line(error)}") from error
    if status != "finished":
        raise CheckpointError(f"{run}: the run is not finished; go on with: leantune train --resume {run}")
    return record


def load_run(run: Path, *, precision: str | None = None) -> TrainedClassifier:
    """Load the merged model of a run.

    Args:
        run: the run folder.
        precision: ``auto``, ``bf16``, ``fp16`` or ``fp32``; None: as in the recipe.

    Raises:
        UsageError: if ``run`` is no run folder.
        CheckpointError: if it is not finished, its model is damaged, or its labels are not those of its model.
        UnsafeFileError: if the model comes with code, or its weights in a pickle.
    """
    record = read_record(run)
    labels = LabelMap.from_json(record["labels"])
    recipe = load_recipe(str(run / "recipe.yaml"), {})
    device = hardware.pick_device()
    dtype = hardware.DTYPES[hardware.pick_precision(precision or recipe.precision, device)]
    merged = str(run / "merged")
    try:
        config_of(merged)  # what the recipe in the folder trusts does not count: it may be a stranger's
        model = load_classifier(merged, needs_head=True)
    except (OSError, UsageError) as error:
        raise CheckpointError(f"{merged}: cannot be loaded: {first_line(error)}") from error
    if {int(i): name for i, name in model.config.id2label.items()} != labels.id2label:
        raise CheckpointError(
            f"{run}/merged: its labels {list(model.config.id2label.values())} are not those of record.json "
            f"{list(labels.names)}"
        )
    classifier = PackedClassifier(model, DropoutStream(0)).eval()
    getattr(model, model.base_model_prefix).to(dtype)
    for module in classifier.architecture.head_in_encoder:
        model.get_submodule(module).float()
    return TrainedClassifier(
        classifier.to(device), Tokeniser(str(run / "merged"), recipe.max_length), labels, recipe
    )
