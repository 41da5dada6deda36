"""Describe the classifier in a folder (a run, an adapter or a merged model), checked, without loading weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from leantune.adalora.adapter_file import WEIGHTS, read_adapter
from leantune.config import recipe_of_run
from leantune.config.classifier_file import InferenceSettings, read_classifier_file
from leantune.config.record.run import read_finished_record
from leantune.data.labels import LabelMap
from leantune.data.tokens.tokenization import Tokenizer
from leantune.errors import UsageError
from leantune.inference.adapters import check_num_labels, count_classes, labels_of_base, tokenizer_folder
from leantune.inference.load import (
    check_artefact,
    checked_merged,
    kind_of,
    labels_of,
    load_weights,
    made_ready,
)
from leantune.inference.text_classifier import TorchTextClassifier
from leantune.model.build import skeleton_of
from leantune.model.hub import resolve_classifier, resolve_model
from leantune.model.pretrained import Pretrained, read_settings, weights_sha256
from leantune.system.checksums import describe_file, update_from
from leantune.system.damage import explained_damage


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedClassifier:
    """Description of a classifier in a folder."""

    source: Path
    """The folder, as given by the user."""
    labels: tuple[str, ...]
    settings: InferenceSettings
    tokenizer_folder: Path
    max_length: int
    """Number of tokens kept from a text, with special tokens."""
    adapter: Path | None
    """The folder of its adapter, if any."""
    merged: Path | None
    """The folder of its merged model, if any."""
    encoder: str | None
    """The folder of the pretrained encoder of ``adapter``; None if it is not available."""
    encoder_sha256: str | None
    """Checksum of the encoder's weights, if known."""
    model_type: str
    """The ``model_type`` in ``config.json``."""
    is_multi_label: bool
    sha256: str
    """Checksum of the trained weights."""

    @property
    def label_map(self) -> LabelMap:
        """The labels, and whether a text may have several."""
        return LabelMap(self.labels, self.is_multi_label)

    def load_tokenizer(self) -> Tokenizer:
        """Load the tokenizer; classifiers with the same files can share one.

        Raises:
            CheckpointError: if it cannot be loaded.
        """
        return Tokenizer.saved(self.tokenizer_folder, longest=self.max_length)

    def tokenizer_key(self) -> str:
        """A key that is equal for classifiers with equal tokenizers."""
        digest = hashlib.sha256(str(self.max_length).encode())
        for file in sorted(self.tokenizer_folder.glob("tokenizer*.json")):
            update_from(digest, file)
        return digest.hexdigest()


def read_saved(source: str | Path, *, base: str | Path | None = None) -> SavedClassifier:
    """Describe the classifier in ``source``; the files of a run are compared with its record.

    Args:
        source: a run folder, its ``adapter/`` or ``merged/``, a LoRA or AdaLoRA adapter that PEFT saved for a sequence
            classifier, or a sequence classifier that transformers saved; or ``USER/NAME``, one of these on the hub.
        base: the pretrained encoder of an adapter; None: the one that it names.

    Raises:
        UsageError: if there is nothing to load, or the encoder of an adapter does not exist.
        CheckpointError: if the folder is damaged, its run did not finish, or it does not hold a classifier.
        UnsafeFileError: if the model comes with code.
    """
    source = resolve_classifier(source)
    kind = kind_of(source)
    if kind == "run":
        return _of_run(source)
    return _of_adapter(source, base) if kind == "adapter" else _of_merged(source)


def _of_run(run: Path) -> SavedClassifier:
    record = read_finished_record(run)
    labels = LabelMap.of_record(record.labels)
    adapter = check_artefact(run, record, "adapter")
    merged, settings = checked_merged(run, record)
    recipe = recipe_of_run(run, record.recipe)
    sha256 = record.model.sha256 if record.model else None
    return SavedClassifier(
        source=run,
        labels=labels.names,
        settings=InferenceSettings.of(recipe),
        tokenizer_folder=merged,
        max_length=recipe.max_length,
        adapter=adapter,
        merged=merged,
        encoder=_encoder_of_run(record.model.source, sha256) if record.model and sha256 else None,
        encoder_sha256=sha256,
        model_type=settings["model_type"],
        is_multi_label=labels.is_multi_label,
        sha256=_sha256_of(adapter),
    )


def _encoder_of_run(source: str, sha256: str) -> str | None:
    """The folder of the encoder that a run was trained on, if it still exists and is unchanged."""
    try:
        folder = resolve_model(source)
    except UsageError:
        return None
    return folder if Path(folder).is_dir() and cached_sha256(folder) == sha256 else None


def _of_adapter(folder: Path, base: str | Path | None) -> SavedClassifier:
    with explained_damage(folder):
        adapter = read_adapter(folder)
    about = read_classifier_file(folder)
    encoder = resolve_model(base or adapter.base_model)
    pretrained = Pretrained.at(encoder)
    num_labels = count_classes(adapter, pretrained)
    labels = LabelMap.of_file(about) if about else labels_of_base(pretrained, num_labels)
    check_num_labels(folder, labels, num_labels)
    tokenizer = tokenizer_folder(folder, encoder)
    return SavedClassifier(
        source=folder,
        labels=labels.names,
        settings=about.settings if about else InferenceSettings(),
        tokenizer_folder=tokenizer,
        max_length=_max_length(tokenizer, pretrained),
        adapter=folder,
        merged=None,
        encoder=encoder,
        encoder_sha256=cached_sha256(encoder),
        model_type=pretrained.config.model_type,
        is_multi_label=labels.is_multi_label,
        sha256=_sha256_of(folder),
    )


def _of_merged(folder: Path) -> SavedClassifier:
    with explained_damage(folder, is_of_run=False):
        settings = read_settings(str(folder))
        labels = labels_of(folder, settings)
        about = read_classifier_file(folder)
        return SavedClassifier(
            source=folder,
            labels=labels.names,
            settings=about.settings if about else InferenceSettings(),
            tokenizer_folder=folder,
            max_length=_max_length(folder, Pretrained.at(str(folder))),
            adapter=None,
            merged=folder,
            encoder=None,
            encoder_sha256=None,
            model_type=settings["model_type"],
            is_multi_label=labels.is_multi_label,
            sha256=weights_sha256(str(folder)),
        )


def load_merged(saved: SavedClassifier, *, precision: str) -> TorchTextClassifier:
    """Load the merged model of a classifier on this machine's device.

    Args:
        saved: a classifier with a merged model.
        precision: ``auto``, ``bf16``, ``fp16``, ``fp32`` or ``int8``.

    Raises:
        UsageError: if the machine lacks the precision.
        CheckpointError: if the model is damaged.
        UnsafeFileError: if its weights are in a pickle.
    """
    assert saved.merged is not None
    with explained_damage(saved.merged):
        classifier = load_weights(saved.merged, read_settings(str(saved.merged)))
    return TorchTextClassifier(
        classifier=made_ready(classifier, precision),
        tokenizer=saved.load_tokenizer(),
        labels=saved.label_map,
        settings=saved.settings,
        source=saved.source,
    )


def _max_length(tokenizer: Path, pretrained: Pretrained) -> int:
    """Number of tokens kept from a text if no record says."""
    return Tokenizer.saved(tokenizer, longest=skeleton_of(pretrained).max_tokens).max_length


@lru_cache(maxsize=64)
def cached_sha256(encoder: str) -> str:
    """`weights_sha256`, read only once per encoder."""
    return weights_sha256(encoder)


def _sha256_of(adapter: Path) -> str:
    return describe_file(adapter / WEIGHTS)["sha256"]
