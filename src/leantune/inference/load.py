"""A finished run, ready to classify: the merged model on packed batches, with its labels and columns."""

from __future__ import annotations

import reprlib
import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from leantune.config import Recipe, recipe_of_run
from leantune.config.run_record import RECORD, read_finished_record
from leantune.data.dataset import Index
from leantune.data.labels import LabelMap
from leantune.data.tokenization import Encoded, Tokeniser
from leantune.errors import CheckpointError
from leantune.inference.batches import map_batches
from leantune.kernels.choose import check_int8
from leantune.model.build import load_classifier, load_packed
from leantune.model.classifier import Classifier
from leantune.model.families import Settings, family_of
from leantune.model.pretrained import Pretrained, load_transformers, read_settings
from leantune.packing.batch import PackedBatch, pack
from leantune.system import hardware
from leantune.system.checksums import find_difference
from leantune.system.damage import explained_damage
from leantune.system.file_names import entry_of

Logits = npt.NDArray[np.float32]


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

    classifier: Classifier

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
    dtype = hardware.DTYPES[hardware.pick_precision(chosen, device)]
    classifier = load_merged(run, record, trust_remote_code=trust_remote_code)
    longest = classifier.max_tokens
    if longest is not None and recipe.max_length > longest:
        raise CheckpointError(
            f"{run / RECORD}: damaged: max_length={recipe.max_length} is more than the "
            f"{longest} tokens that the model can take"
        )
    classifier.set_encoder_dtype(dtype)
    classifier.to(device)
    choice = classifier.choose_kernels(predict_int8=chosen == hardware.INT8)
    if chosen == hardware.INT8:
        check_int8(choice)
    return TrainedClassifier(
        classifier=classifier,
        tokeniser=Tokeniser.of_run(run / "merged", recipe.max_length),
        labels=LabelMap.from_json(record["labels"]),
        recipe=recipe,
    )


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


def load_merged(run: Path, record: Mapping[str, Any], *, trust_remote_code: bool = False) -> Classifier:
    """The merged model of a run, in fp32 and evaluation mode.

    Raises:
        CheckpointError: if it is damaged, or its labels are not those of ``record``.
        UnsafeFileError: if it comes with code, or its weights in a pickle.
    """
    merged = check_artefact(run, record, "merged")
    with explained_damage(merged):
        settings = read_settings(str(merged), trust_remote_code=trust_remote_code)
        check_labels(merged, settings, LabelMap.from_json(record["labels"]))
        if family_of(settings) is not None:
            return load_packed(str(merged), settings, needs_head=True).eval()
        pretrained = Pretrained.at(str(merged), trust_remote_code=trust_remote_code)
        return load_classifier(pretrained, needs_head=True).eval()


def load_merged_transformers(run: Path, record: Mapping[str, Any], *, trust_remote_code: bool = False) -> Any:
    """The same as transformers' own model, for what is made of that.

    Raises:
        CheckpointError: if it is damaged, or its labels are not those of ``record``.
        UnsafeFileError: if it comes with code, or its weights in a pickle.
    """
    merged = check_artefact(run, record, "merged")
    with explained_damage(merged):
        pretrained = Pretrained.at(str(merged), trust_remote_code=trust_remote_code)
        check_labels(merged, pretrained.config.to_dict(), LabelMap.from_json(record["labels"]))
        return load_transformers(pretrained).eval()


def check_labels(folder: Path, settings: Settings, labels: LabelMap) -> None:
    """Refuse a model folder of a run whose ``config.json`` has other classes than the run's record.

    Raises:
        CheckpointError: naming both.
    """
    named = settings.get("id2label")
    found = {str(i): name for i, name in named.items()} if isinstance(named, Mapping) else {}
    if found != {str(i): name for i, name in labels.id2label.items()}:
        shown = reprlib.repr(list(found.values()))
        raise CheckpointError(
            f"{folder}: its labels {shown} are not those of record.json {reprlib.repr(list(labels.names))}"
        )
