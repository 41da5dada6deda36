"""Load a classifier from a folder: a run, a PEFT adapter or a merged transformers model, ours or any other."""

from __future__ import annotations

import reprlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from leantune.adalora.adapter_file import CONFIG as ADAPTER_CONFIG
from leantune.config import recipe_of_run
from leantune.config.classifier_file import InferenceSettings, read_classifier_file
from leantune.config.problem_type import MULTI_LABEL, SINGLE_LABEL
from leantune.config.record.run import RECORD, FinishedRecord, read_finished_record, to_json
from leantune.data.labels import LabelMap
from leantune.data.tokens.tokenization import Tokenizer
from leantune.errors import CheckpointError, UsageError
from leantune.inference.adapters import check_num_labels, load_adapter
from leantune.inference.text_classifier import TorchTextClassifier
from leantune.kernels.choose import check_int8
from leantune.model.build import load_classifier, load_packed
from leantune.model.classifier import Classifier
from leantune.model.families import family_of
from leantune.model.family import Settings
from leantune.model.hub import resolve_classifier
from leantune.model.pretrained import Pretrained, load_transformers, read_settings
from leantune.system import hardware
from leantune.system.checksums import find_difference
from leantune.system.damage import explained_damage
from leantune.system.file_names import entry_of

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"


def load(
    path: str | Path,
    *,
    base: str | Path | None = None,
    labels: Sequence[str] | None = None,
    precision: str | None = None,
    trust_remote_code: bool = False,
) -> TorchTextClassifier:
    """Load a trained classifier from a folder or from the model hub.

    Args:
        path: a run folder, its ``adapter/`` or ``merged/``, a LoRA or AdaLoRA adapter that PEFT saved for a sequence
            classifier, or a sequence classifier that transformers saved; or ``USER/NAME``, a model of the hub that is
            one of these. A name whose first part is a folder here is a path.
        base: the pretrained encoder of an adapter; None: the one that the adapter names.
        labels: names of the classes in the order of their ids; None: those in the folder, else ``LABEL_0`` and so on.
        precision: ``auto``, ``bf16``, ``fp16``, ``fp32``, or ``int8``: bf16 with products in int8, on a CPU with the
            native kernels; None: as in the recipe of the run.
        trust_remote_code: allow code that comes with the model.

    Raises:
        UsageError: if there is nothing to load, the hub does not provide it, the machine lacks the precision, or the
            number of ``labels`` differs from the number of classes.
        CheckpointError: if the folder is damaged, its run did not finish, or it does not hold a classifier.
        UnsafeFileError: if the model comes with code, or its weights are in a pickle.
    """
    folder = resolve_classifier(path)
    kind = kind_of(folder)
    if kind == "run":
        _refuse("base", base, "a run has its encoder in it")
        _refuse("labels", labels, "a run names its classes")
        return load_run(folder, precision=precision, trust_remote_code=trust_remote_code)
    try:
        names = None if labels is None else LabelMap(tuple(labels))
    except ValueError as error:
        raise UsageError(f"labels: {error}") from error
    if kind == "adapter":
        return _load_adapter(folder, base, names, precision, trust_remote_code=trust_remote_code)
    _refuse("base", base, "a merged model has its encoder in it")
    return _load_merged_alone(folder, names, precision, trust_remote_code=trust_remote_code)


def require_run(folder: Path) -> None:
    """Refuse a folder that is not a run folder.

    Raises:
        UsageError: if it holds something else.
    """
    if kind_of(folder) != "run":
        raise UsageError(f"{folder}: not a run folder; give the output folder of 'leantune train'")


def kind_of(folder: Path) -> str:
    """The kind of a folder: ``run``, ``adapter`` or ``merged``.

    Raises:
        UsageError: if it is none of them.
    """
    for kind, name in (("run", RECORD), ("adapter", ADAPTER_CONFIG), ("merged", CONFIG)):
        if (folder / name).is_file():
            return kind
    if not folder.exists():
        raise UsageError(f"{folder}: no such folder; give the output folder of 'leantune train'")
    raise UsageError(
        f"{folder}: no run found (no {RECORD}), no adapter (no {ADAPTER_CONFIG}) and no classifier of transformers (no "
        f"{CONFIG}); give the output folder of 'leantune train'"
    )


def _refuse(name: str, value: object, reason: str) -> None:
    if value is not None:
        raise UsageError(f"{name}: {reason}; leave it out")


def load_run(
    run: str | Path, *, precision: str | None = None, trust_remote_code: bool = False
) -> TorchTextClassifier:
    """Load the merged model of a run.

    Args:
        run: the run folder.
        precision: ``auto``, ``bf16``, ``fp16``, ``fp32``, or ``int8``: bf16 with products in int8, on a CPU with the
            native kernels; None: as in the recipe.
        trust_remote_code: allow code that comes with the model; the recipe in the folder cannot allow it, because a
            stranger may have written it.

    Raises:
        UsageError: if ``run`` is not a run folder, or the machine lacks the precision.
        CheckpointError: if the run is not finished, its model is damaged, or their labels differ.
        UnsafeFileError: if the model comes with code, or its weights are in a pickle.
    """
    run = Path(run)
    record = read_finished_record(run)
    recipe = recipe_of_run(run, record.recipe)
    classifier = load_merged(run, record, trust_remote_code=trust_remote_code)
    longest = classifier.max_tokens
    if longest is not None and recipe.max_length > longest:
        raise CheckpointError(
            f"{run / RECORD}: damaged: max_length={recipe.max_length} is more than the "
            f"{longest} tokens that the model can take"
        )
    return TorchTextClassifier(
        classifier=made_ready(classifier, precision or recipe.precision),
        tokenizer=Tokenizer.of_run(run / "merged", recipe.max_length),
        labels=LabelMap.of_record(record.labels),
        settings=InferenceSettings.of(recipe),
        source=run,
        metrics=to_json(record.metrics) or {},
        leaves_out=(CHECKPOINTS,),
    )


def made_ready(classifier: Classifier, precision: str) -> Classifier:
    """Move a classifier to this machine's device, convert its precision and choose its kernels.

    Raises:
        UsageError: if the machine lacks the precision.
    """
    hardware.keep_to_allowed_cpus()
    device = hardware.pick_device()
    classifier.set_encoder_dtype(hardware.DTYPES[hardware.pick_precision(precision, device)])
    classifier.to(device)
    is_int8 = precision == hardware.INT8
    choice = classifier.choose_kernels(predict_int8=is_int8)
    if is_int8:
        check_int8(choice)
    return classifier


def _load_adapter(
    folder: Path,
    base: str | Path | None,
    labels: LabelMap | None,
    precision: str | None,
    *,
    trust_remote_code: bool,
) -> TorchTextClassifier:
    about = read_classifier_file(folder)
    if labels is None and about is not None:
        labels = LabelMap.of_file(about)
    elif labels is not None and about is not None:
        labels = replace(labels, is_multi_label=about.is_multi_label)
    loaded = load_adapter(folder, base=base, labels=labels, trust_remote_code=trust_remote_code)
    settings = about.settings if about else _settings_for(loaded.labels)
    return TorchTextClassifier(
        classifier=made_ready(loaded.classifier, precision or settings.precision),
        tokenizer=loaded.tokenizer,
        labels=loaded.labels,
        settings=settings,
        source=folder,
    )


def _load_merged_alone(
    folder: Path, labels: LabelMap | None, precision: str | None, *, trust_remote_code: bool
) -> TorchTextClassifier:
    with explained_damage(folder, is_of_run=False):
        found = read_settings(str(folder), trust_remote_code=trust_remote_code)
        names = labels_of(folder, found)
        if labels is not None:
            check_num_labels(folder, labels, len(names.names))
        classifier = load_weights(folder, found, trust_remote_code=trust_remote_code)
        about = read_classifier_file(folder)
        names = replace(names, label_type=about.label_type) if about else names
        settings = about.settings if about else _settings_for(names)
        return TorchTextClassifier(
            classifier=made_ready(classifier, precision or settings.precision),
            tokenizer=Tokenizer.saved(folder, longest=classifier.max_tokens),
            labels=replace(labels, is_multi_label=names.is_multi_label) if labels else names,
            settings=settings,
            source=folder,
        )


def _settings_for(labels: LabelMap) -> InferenceSettings:
    """Default settings for a folder without any."""
    return InferenceSettings(problem_type=MULTI_LABEL if labels.is_multi_label else None)


def labels_of(folder: Path, settings: Settings) -> LabelMap:
    """The classes that a classifier's ``config.json`` names, and whether a text may have several.

    Raises:
        CheckpointError: if the model is not a classifier, has a single output, or names a class twice.
    """
    kind = settings.get("problem_type")
    if kind not in (None, SINGLE_LABEL, MULTI_LABEL):
        raise CheckpointError(f"{folder}: a model for {kind}, expected a classifier")
    named = settings.get("id2label") or {str(i): f"LABEL_{i}" for i in range(settings.get("num_labels") or 2)}
    try:
        by_id = {int(i): str(name) for i, name in named.items()}
        if sorted(by_id) != list(range(len(by_id))):
            raise ValueError(f"ids must be 0 to {len(by_id) - 1}. Got {reprlib.repr(sorted(by_id))} instead")
        return LabelMap(tuple(by_id[i] for i in range(len(by_id))), kind == MULTI_LABEL)
    except (AttributeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG}: id2label names no classes: {error}") from error


def artefact_of(source: Path, part: str, *, trust_remote_code: bool = False) -> Path:
    """The folder ``adapter`` or ``merged`` of a run, or ``source`` itself if it is one.

    Raises:
        UsageError: if ``source`` has no such part.
        CheckpointError: if the run is not finished or damaged.
        UnsafeFileError: if the model comes with code that is not trusted.
    """
    kind = kind_of(source)
    if kind == "run":
        record = read_finished_record(source)
        if part == "merged":
            return checked_merged(source, record, trust_remote_code=trust_remote_code)[0]
        return check_artefact(source, record, part)
    if kind == part:
        return source
    if part == "merged":
        command = f"leantune export {shlex.quote(str(source))} --format merged --output FOLDER"
        raise UsageError(f"{source}: an adapter, expected a merged model; make it with: {command}")
    raise UsageError(
        f"{source}: a merged model, which has no separate adapter; export it as merged, onnx or openvino"
    )


def check_artefact(run: Path, record: FinishedRecord, name: str) -> Path:
    """The folder ``adapter`` or ``merged`` of a run, after checking that its files are unchanged.

    A record may lack checksums; the folders are then not checked.

    Raises:
        CheckpointError: naming the file that is missing or was changed.
        UnsafeFileError: if the record names something outside the folder, or a link leads there.
    """
    folder = entry_of(run, name)
    problem = find_difference(folder, record.artefacts[name].files or {})
    if problem:
        raise CheckpointError(
            f"{folder}: {problem} by record.json: it was damaged or changed after training; restore the file "
            f"that the run wrote, or write it again with: leantune train --resume {shlex.quote(str(run))}"
        )
    return folder


def load_merged(run: Path, record: FinishedRecord, *, trust_remote_code: bool = False) -> Classifier:
    """The merged model of a run, in fp32 and evaluation mode.

    Raises:
        CheckpointError: if it is damaged, or its labels differ from those of ``record``.
        UnsafeFileError: if it comes with code, or its weights are in a pickle.
    """
    merged, settings = checked_merged(run, record, trust_remote_code=trust_remote_code)
    with explained_damage(merged):
        return load_weights(merged, settings, trust_remote_code=trust_remote_code)


def checked_merged(
    run: Path, record: FinishedRecord, *, trust_remote_code: bool = False
) -> tuple[Path, Settings]:
    """The folder ``merged`` of a run and its ``config.json``, after comparing files and labels with ``record``."""
    merged = check_artefact(run, record, "merged")
    with explained_damage(merged):
        settings = read_settings(str(merged), trust_remote_code=trust_remote_code)
        check_labels(merged, settings, LabelMap.of_record(record.labels))
    return merged, settings


def load_weights(folder: Path, settings: Settings, *, trust_remote_code: bool = False) -> Classifier:
    """A merged model in fp32 and evaluation mode; transformers is used only for families other than ours."""
    if family_of(settings) is not None:
        return load_packed(str(folder), settings, needs_head=True).eval()
    pretrained = Pretrained.at(str(folder), trust_remote_code=trust_remote_code)
    return load_classifier(pretrained, needs_head=True).eval()


def load_merged_transformers(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """A merged model in fp32 as a transformers model, for conversion to other formats.

    Raises:
        CheckpointError: if it is damaged.
        UnsafeFileError: if it comes with code, or its weights are in a pickle.
    """
    with explained_damage(folder):
        return load_transformers(Pretrained.at(str(folder), trust_remote_code=trust_remote_code)).eval()


def check_labels(folder: Path, settings: Settings, labels: LabelMap) -> None:
    """Check that a model folder's ``config.json`` and the record of its run agree on classes and ``problem_type``.

    Raises:
        CheckpointError: naming both values if they differ.
    """
    named = settings.get("id2label")
    found = {str(i): name for i, name in named.items()} if isinstance(named, Mapping) else {}
    if found != {str(i): name for i, name in labels.id2label.items()}:
        shown = reprlib.repr(list(found.values()))
        raise CheckpointError(
            f"{folder}: its labels {shown} are not those of record.json {reprlib.repr(list(labels.names))}"
        )
    kind = settings.get("problem_type")
    if (kind == MULTI_LABEL) != labels.is_multi_label:
        expected = MULTI_LABEL if labels.is_multi_label else SINGLE_LABEL
        raise CheckpointError(f"{folder}: its config.json is of {kind}, and record.json of {expected}")
