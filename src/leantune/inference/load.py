"""A finished run, ready to classify: the merged model on packed batches, with its labels and columns."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from leantune import hardware
from leantune.checksums import find_difference
from leantune.config import Recipe, recipe_of_run
from leantune.damage import explained_damage
from leantune.data.labels import LabelMap
from leantune.data.rows import Index
from leantune.data.tokens import Encoded, Tokeniser
from leantune.errors import CheckpointError, UsageError
from leantune.evaluation.evaluate import map_batches
from leantune.file_names import entry_of
from leantune.model import PackedClassifier
from leantune.packing.batch import PackedBatch, pack
from leantune.packing.dropout import DropoutStream
from leantune.packing.native.int8 import use_int8_products, why_no_int8
from leantune.packing.native.rounded import WIDTH_MULTIPLE
from leantune.pretrained import config_of, load_classifier, set_encoder_dtype
from leantune.run_record import RECORD, read_finished_record

Logits = npt.NDArray[np.float32]

INT8 = "int8"
"""A precision of prediction alone: that of bf16, with products in int8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunClassifier(ABC):
    """What a run folder holds, loaded: all that prediction needs, whichever library computes."""

    tokeniser: Tokeniser
    labels: LabelMap
    recipe: Recipe

    @abstractmethod
    def logits(self, rows: Encoded, batch_size: int) -> Logits:
        """Logits ``(N, C)`` in the order of ``rows``, whatever the batches were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedClassifier(RunClassifier):
    """The merged model in PyTorch, on packed batches."""

    classifier: PackedClassifier

    def logits(self, rows: Encoded, batch_size: int) -> Logits:
        """Logits ``(N, C)`` in the order of ``rows``."""

        def batch_at(positions: Index) -> PackedBatch:
            return pack(
                [rows.input_ids[i] for i in positions],
                np.arange(len(positions)),
                second_starts=rows.second_starts[positions],
                position_offset=self.classifier.position_offset,
            ).to(self.classifier.device)

        return map_batches(self.classifier, rows.lengths, batch_size, batch_at, self.classifier)


def load_run(
    run: str | Path, *, precision: str | None = None, trust_remote_code: bool = False
) -> TrainedClassifier:
    """Load the merged model of a run.

    Args:
        run: the run folder.
        precision: ``auto``, ``bf16``, ``fp16``, ``fp32``, or ``int8``: bf16 with products in int8, on a CPU with the
            native kernels; None: as in the recipe.
        trust_remote_code: allow code that comes with the model; what the recipe in the folder says does not
            count, since it may be a stranger's.

    Raises:
        UsageError: if ``run`` is no run folder, or the machine has no such precision.
        CheckpointError: if it is not finished, its model is damaged, or its labels are not those of its model.
        UnsafeFileError: if the model comes with code, or its weights in a pickle.
    """
    run = Path(run)
    record = read_finished_record(run)
    recipe = recipe_of_run(run, record)
    hardware.keep_to_allowed_cpus()
    device = hardware.pick_device()
    chosen = precision or recipe.precision
    dtype = hardware.DTYPES[hardware.pick_precision("bf16" if chosen == INT8 else chosen, device)]
    model = load_merged(run, record, trust_remote_code=trust_remote_code)
    with explained_damage(run / "merged"):
        set_encoder_dtype(model.requires_grad_(False), dtype)
        classifier = PackedClassifier(model, DropoutStream(0)).eval()
        longest = longest_text(model.config, classifier.position_offset)
    if longest is not None and recipe.max_length > longest:
        raise CheckpointError(
            f"{run / RECORD}: damaged: max_length={recipe.max_length} is more than the "
            f"{longest} tokens that the model can take"
        )
    if chosen == INT8:
        _multiply_in_int8(model, device)
    return TrainedClassifier(
        classifier=classifier.to(device),
        tokeniser=Tokeniser.of_run(run / "merged", recipe.max_length),
        labels=LabelMap.from_json(record["labels"]),
        recipe=recipe,
    )


def _multiply_in_int8(model: Any, device: torch.device) -> None:
    """Round the weights of ``model``, in bf16.

    Raises:
        UsageError: saying what is missing for it.
    """
    reason = "it is for CPUs" if device.type != "cpu" else why_no_int8()
    if not reason and not use_int8_products(model, predicts=True):
        reason = f"no layer of this {model.config.model_type} has widths of a multiple of {WIDTH_MULTIPLE}"
    if reason:
        raise UsageError(f"precision=int8: {reason}; use precision=auto")


def longest_text(config: Any, position_offset: int) -> int | None:
    """How many tokens a model has positions for; None if there is no limit, for which XLNet says -1."""
    positions = getattr(config, "max_position_embeddings", None)
    return None if positions is None or positions < 1 else int(positions) - position_offset


def check_artefact(run: Path, record: Mapping[str, Any], name: str) -> Path:
    """The folder ``adapter`` or ``merged`` of a run, if its files are those that the run wrote.

    A record may come without checksums; the folders are then taken as they are.

    Raises:
        CheckpointError: naming the file that is missing or was changed.
        UnsafeFileError: if the record names something outside of the folder, or a link leads there.
    """
    folder = entry_of(run, name)
    problem = find_difference(folder, record["artefacts"][name].get("files") or {})
    if problem:
        raise CheckpointError(
            f"{folder}: {problem} by record.json: it was damaged or changed after training; put back what "
            f"the run wrote, or write it again with: leantune train --resume {shlex.quote(str(run))}"
        )
    return folder


def load_merged(run: Path, record: Mapping[str, Any], *, trust_remote_code: bool = False) -> Any:
    """The merged transformers model of a run, in fp32.

    Raises:
        CheckpointError: if it is damaged, or its labels are not those of ``record``.
        UnsafeFileError: if it comes with code, or its weights in a pickle.
    """
    labels = LabelMap.from_json(record["labels"])
    merged = check_artefact(run, record, "merged")
    with explained_damage(merged):
        config = config_of(str(merged), trust_remote_code=trust_remote_code)
        check_labels(merged, config, labels)
        model = load_classifier(str(merged), config, needs_head=True)
    return model


def check_labels(folder: Path, config: Any, labels: LabelMap) -> None:
    """Refuse a model folder of a run whose config has other classes than the run's record.

    Raises:
        CheckpointError: naming both.
    """
    if {int(i): name for i, name in config.id2label.items()} != labels.id2label:
        raise CheckpointError(
            f"{folder}: its labels {list(config.id2label.values())} are not those of record.json "
            f"{list(labels.names)}"
        )
