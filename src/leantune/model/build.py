"""Assemble a classifier: its shape without weights, pretrained weights, a new head, adapters.

C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leantune.data.labels import LabelMap
from leantune.errors import UsageError, first_line
from leantune.model.classifier import Classifier, PackedClassifier
from leantune.model.families import family_of
from leantune.model.family import Settings
from leantune.model.padded import PaddedClassifier
from leantune.model.pretrained import (
    Pretrained,
    check_none_missing,
    check_shape,
    load_transformers,
    read_weights,
    tensor_names,
)
from leantune.packing.dropout import DropoutStream

_SUPPORTED = "take a BERT, RoBERTa, ELECTRA, DistilBERT, ModernBERT, DeBERTa, Llama, Qwen or the like"


def skeleton(config: Any, *, trust_remote_code: bool = False) -> Classifier:
    """The classifier of a transformers config on the meta device: names and shapes, no weights.

    Raises:
        UsageError: if transformers has no such classifier, or if its head has no linear output layer.
    """
    settings = config.to_dict()
    family = family_of(settings)
    with torch.device("meta"):
        if family is not None:
            return PackedClassifier(family, settings, DropoutStream(0))
        model = _without_weights(config, trust_remote_code)
    try:
        return PaddedClassifier(model, DropoutStream(0))
    except ValueError as error:
        raise UsageError(str(error)) from error


def skeleton_of(pretrained: Pretrained) -> Classifier:
    """The classifier of a model folder on the meta device; see `skeleton`.

    Raises:
        UsageError: see `skeleton`.
    """
    return skeleton(pretrained.config, trust_remote_code=pretrained.trust_remote_code)


def _without_weights(config: Any, trust_remote_code: bool) -> Any:
    """Transformers' own classifier on the default device, randomly initialised."""
    from transformers import AutoModelForSequenceClassification

    try:
        return AutoModelForSequenceClassification.from_config(config, trust_remote_code=trust_remote_code)
    except ValueError as error:
        raise UsageError(
            f"transformers has no sequence classifier for {config.model_type}; {_SUPPORTED}"
        ) from error


def packed_from(settings: Settings, weights: Mapping[str, Tensor]) -> PackedClassifier:
    """A classifier with our own encoder that uses the tensors in ``weights`` without copying them.

    Args:
        settings: ``config.json`` of a model of a known family.
        weights: tensors named as in transformers' classifier, or as in its encoder alone; extra ones are ignored.

    Raises:
        CheckpointError: naming a tensor that is missing or has another shape.
        ValueError: if the settings belong to no known family.
    """
    family = family_of(settings)
    if family is None:
        raise ValueError(f"{settings.get('model_type')} belongs to no known family")
    with torch.device("meta"):
        classifier = PackedClassifier(family, settings, DropoutStream(0))
    assign_weights(classifier, weights, source="in memory")
    return classifier


def assign_weights(
    classifier: PackedClassifier,
    weights: Mapping[str, Tensor],
    *,
    source: str,
    may_lack: tuple[str, ...] = (),
) -> None:
    """Use ``weights`` as the parameters of a classifier on the meta device, with the head in fp32.

    Args:
        classifier: a classifier from `skeleton`.
        weights: tensors by name; weights saved from a bare encoder lack the prefix.
        source: name to use in error messages.
        may_lack: modules that may be missing or have another shape in ``weights``; they are set to zero.

    Raises:
        CheckpointError: naming a tensor that is missing or has another shape.
    """
    prefix, may_lack = f"{classifier.prefix}.", tuple(f"{name}." for name in may_lack)
    missing = []
    for name, module in classifier.named_modules_with_weights().items():
        for sub, expected in list(module.named_parameters()):
            full = f"{name}.{sub}"
            found = weights.get(full)
            if found is None and full.startswith(prefix):
                found = weights.get(full.removeprefix(prefix))
            is_drawn = full.startswith(may_lack or "\0")
            if is_drawn and (found is None or found.shape != expected.shape):
                found = torch.zeros(expected.shape)
            if found is None:
                missing.append(full)
                continue
            check_shape(source, full, found.shape, expected.shape)
            is_parameter = isinstance(found, nn.Parameter)
            setattr(module, sub, found if is_parameter else nn.Parameter(found, requires_grad=False))
    check_none_missing(source, missing)


def load_classifier(pretrained: Pretrained, *, needs_head: bool) -> Classifier:
    """An fp32 classifier with all weights from a model folder.

    Args:
        pretrained: the folder and its config.
        needs_head: whether the head must come from there too; otherwise it may be missing or different.

    Raises:
        OSError: if there are no weights.
        UnsafeFileError: if the weights are only in a pickle.
        CheckpointError: naming a file that is damaged, or a tensor that is missing or has another shape.
    """
    settings = pretrained.config.to_dict()
    if family_of(settings) is not None:
        return load_packed(pretrained.folder, settings, needs_head=needs_head)
    shell = skeleton_of(pretrained)
    may_lack = () if needs_head else (*shell.head_names(), *shell.pooler_names)
    model = load_transformers(pretrained, may_lack=may_lack)
    return PaddedClassifier(model, DropoutStream(0)).requires_grad_(False)


def load_packed(source: str, settings: Settings, *, needs_head: bool) -> PackedClassifier:
    """The same for a known family, read without transformers; ``settings`` are its ``config.json``.

    Raises:
        OSError, UnsafeFileError, CheckpointError: see `load_classifier`.
    """
    family = family_of(settings)
    assert family is not None
    with torch.device("meta"):
        classifier = PackedClassifier(family, settings, DropoutStream(0))
    may_lack = () if needs_head else (*classifier.head_names(), *classifier.pooler_names)
    weights = {name: tensor.float() for name, tensor in read_weights(source).items()}
    assign_weights(classifier, weights, source=source, may_lack=may_lack)
    return classifier.requires_grad_(False)


def load_pretrained(pretrained: Pretrained, labels: LabelMap) -> Classifier:
    """A pretrained encoder in fp32 with a head that still has to be initialised.

    Args:
        pretrained: the folder and its config.
        labels: the classes.

    Raises:
        UsageError: if the model cannot be read.
        UnsafeFileError: if the weights are only in a pickle.
        CheckpointError: naming a tensor of the encoder that is missing or does not fit the config.
    """
    try:
        return load_classifier(pretrained.with_labels(labels), needs_head=False)
    except OSError as error:
        raise UsageError(f"model {pretrained.folder}: cannot be read: {first_line(error)}") from error


def missing_head_modules(pretrained: Pretrained) -> tuple[str, ...]:
    """Encoder modules that the head uses and the weights in the folder lack, such as a BERT pooler.

    Reads only the headers of the safetensors files; empty without such files (see `unseen_head_modules`).

    Raises:
        CheckpointError: naming a file that is damaged.
    """
    names = tensor_names(pretrained.folder)
    if not names:
        return ()
    # weights saved from a bare encoder have no prefix
    return tuple(
        module
        for module in skeleton_of(pretrained).pooler_names
        if not any(n.startswith((f"{module}.", f"{module.partition('.')[2]}.")) for n in names)
    )


def unseen_head_modules(pretrained: Pretrained) -> dict[str, int]:
    """Parameter counts of encoder modules that only the head uses, if the folder has no weights to look into.

    They are trained if the weights turn out to lack them.
    """
    if tensor_names(pretrained.folder):
        return {}
    shell = skeleton_of(pretrained)
    return {
        module: sum(p.numel() for name, p in shell.named_weights().items() if name.startswith(f"{module}."))
        for module in shell.pooler_names
    }


def missing_head_parameters(classifier: Classifier, source: str) -> list[str]:
    """Parameters of the head that the weights in the folder ``source`` lack."""
    found = tensor_names(source)
    prefix = f"{classifier.prefix}."
    return [
        name
        for name in classifier.head_weights("full", classifier.pooler_names)
        if not {name, name.removeprefix(prefix)} & found
    ]


def reinitialise_head(classifier: Classifier, seed: int, missing_modules: tuple[str, ...] = ()) -> None:
    """Initialise the head again from N(0, initializer_range), with a generator of its own.

    Norms start with weight one and bias zero.

    Args:
        classifier: a classifier with weights.
        seed: seed of the generator.
        missing_modules: see `missing_head_modules`; they are initialised too.
    """
    sequence = np.random.SeedSequence([seed, 0x4EAD])  # the adapters use ``seed`` itself
    generator = torch.Generator().manual_seed(sequence.generate_state(1, np.uint64).item())
    std = classifier.settings.get("initializer_range", 0.02)
    modules = classifier.named_modules_with_weights()
    for place in (*classifier.head_names(), *missing_modules):
        for name, module in modules.items():
            if name != place and not name.startswith(f"{place}."):
                continue
            if isinstance(module, nn.Linear):
                module.weight.data.normal_(0.0, std, generator=generator)
                if module.bias is not None:
                    module.bias.data.zero_()
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
