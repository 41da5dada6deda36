"""Pretrained classifiers from a folder: config, shape without weights, weights; safetensors only.

`sources.resolve_model` finds the folder of an asset or a hub name.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leantune.architectures import architecture_of, head_modules
from leantune.checksums import update_from
from leantune.data.labels import LabelMap
from leantune.errors import CheckpointError, UnsafeFileError, UsageError, first_line

_PICKLED_WEIGHTS = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


_VOICE = threading.RLock()
"""Of what transformers says, which is set for the whole process."""

_GATE_PASSED = True
"""A config that names code comes from `config_of` only where that code is trusted."""


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A classifier without weights: what a plan needs to know."""

    model: Any
    """The transformers model on the meta device."""
    num_base_parameters: int


def config_of(source: str, *, num_labels: int | None = None, trust_remote_code: bool = False) -> Any:
    """The transformers config of a model folder, with ``num_labels`` classes if given.

    Raises:
        UsageError: if there is no such folder, or no config in it that can be read.
        UnsafeFileError: if it comes with code of its own that the user has not allowed.
    """
    from transformers import AutoConfig

    folder = Path(source)
    if not folder.exists():
        raise UsageError(f"model {source}: no such folder")
    if not (folder / "config.json").is_file():
        raise UsageError(f"model {source}: no config.json in it; expected a folder of a transformers model")
    if (folder / "adapter_config.json").is_file():
        raise UsageError(
            f"model {source}: holds an adapter (adapter_config.json) beside the model, which transformers would add to "
            "it: move one of them elsewhere"
        )
    try:
        if not trust_remote_code:
            _refuse_remote_code(str(folder))
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UsageError(f"model {source}: cannot be read: {first_line(error)}") from error
    if num_labels is not None:
        config.id2label = {i: f"LABEL_{i}" for i in range(num_labels)}
        config.label2id = {name: i for i, name in config.id2label.items()}
    return config


def with_dropout(config: Any, probability: float | None) -> Any:
    """A copy of the config with this probability wherever it names one of dropout; None: as it is.

    A field that is None takes another one's value in transformers (``classifier_dropout``), so it stays.
    """
    changed = copy.deepcopy(config)
    if probability is not None:
        for name, value in config.to_dict().items():
            if "dropout" in name and isinstance(value, int | float) and not isinstance(value, bool):
                setattr(changed, name, probability)
    return changed


def _refuse_remote_code(source: str) -> None:
    from transformers import PreTrainedConfig
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    model_settings, _ = PreTrainedConfig.get_config_dict(source)
    tokenizer_settings = get_tokenizer_config(source)
    for file, settings in (("config.json", model_settings), ("tokenizer_config.json", tokenizer_settings)):
        if settings.get("auto_map"):
            raise UnsafeFileError(
                f"model {source}: its {file} names code that comes with it (auto_map), which is not run unasked: "
                "read that code, then add --trust-remote-code true, or take another model"
            )


OTHER_DECODERS = ("ctrl", "modernbert-decoder")
"""Whose heads have the name that encoders' have."""


def skeleton(config: Any) -> Skeleton:
    """The classifier of ``config``, from `config_of`, on the meta device: names and shapes, no weights.

    Raises:
        UsageError: if transformers has no classifier of this kind, or it is a decoder, which classifies by its last
            token.
    """
    from transformers import AutoModelForSequenceClassification

    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=_GATE_PASSED)
    except ValueError as error:
        raise UsageError(
            f"transformers has no sequence classifier of {config.model_type}; take a BERT, RoBERTa, ELECTRA, "
            "DistilBERT, ModernBERT, DeBERTa or the like"
        ) from error
    # the name of other decoders' heads in transformers
    if config.model_type in OTHER_DECODERS or isinstance(getattr(model, "score", None), nn.Linear):
        raise UsageError(
            f"{config.model_type} is a decoder, which classifies by the last token of a text; leantune trains "
            "encoders: take a BERT, RoBERTa, ELECTRA, DistilBERT, ModernBERT, DeBERTa or the like"
        )
    return Skeleton(model, sum(p.numel() for p in model.parameters()))


def weights_sha256(folder: str) -> str:
    """Hex digest of all safetensors files of a model folder, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        update_from(digest, file)
    return digest.hexdigest()


def tensor_names(folder: str) -> set[str]:
    """Names of all tensors in the safetensors files of a model folder; reads only their headers.

    Raises:
        CheckpointError: naming a file that is damaged.
    """
    return {name for file in sorted(Path(folder).glob("*.safetensors")) for name in _names_in(file)}


def _names_in(file: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            names: list[str] = list(opened.keys())
    except SafetensorError as error:
        raise CheckpointError(f"{file}: damaged: {first_line(error)}; copy or download it again") from error
    return names


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no advice from transformers: the run has its own voice. One thread at a time."""
    from transformers.utils import logging

    with _VOICE:
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()


def load_pretrained(source: str, config: Any, labels: LabelMap) -> Any:
    """The transformers classifier with pretrained weights in fp32 and a fresh head.

    Args:
        source: a folder.
        config: from `config_of`; it gets the names of ``labels``.
        labels: the classes.

    Raises:
        UsageError: if the model cannot be had.
        UnsafeFileError: if its weights are in a pickle alone.
        CheckpointError: naming a tensor of the encoder that is missing or does not fit the config.
    """
    config.id2label, config.label2id = labels.id2label, labels.label2id
    config.problem_type = "single_label_classification"
    try:
        return load_classifier(source, config, needs_head=False)
    except OSError as error:
        raise UsageError(f"model {source}: cannot be read: {first_line(error)}") from error


def load_classifier(source: str, config: Any, *, needs_head: bool) -> Any:
    """A transformers classifier in fp32 whose weights all come from ``source``.

    Args:
        source: a folder.
        config: of the model, from `config_of`, which refuses code that is not trusted.
        needs_head: whether the head must come from there too; otherwise it may be missing, or another one.

    Raises:
        OSError: if there are no weights.
        UnsafeFileError: if they are in a pickle alone.
        CheckpointError: naming a file that is damaged, or a tensor that is missing or of another shape.
    """
    from transformers import AutoModelForSequenceClassification

    _check_files(Path(source))
    try:
        with quiet_transformers():
            model, found = AutoModelForSequenceClassification.from_pretrained(
                source,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # it only says that some differ; the check below says which
                output_loading_info=True,
                config=config,
                trust_remote_code=_GATE_PASSED,
            )
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"model {source}: {first_line(error)}") from error
    head = () if needs_head else tuple(f"{name}." for name in head_modules(model))
    drawn = () if needs_head else tuple(f"{name}." for name in architecture_of(model.config).head_in_encoder)
    for name, shape, expected in sorted(found["mismatched_keys"]):
        if not name.startswith(head):
            raise CheckpointError(
                f"model {source}: {name} has shape {tuple(shape)}, its config.json says {tuple(expected)}: "
                "the weights are of another model"
            )
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(head + drawn))
    if missing:
        raise CheckpointError(
            f"model {source}: its weights lack {missing[0]}"
            + (f" and {len(missing) - 1} more tensors" if len(missing) > 1 else "")
            + " of the architecture in its config.json: the weights are of another model"
        )
    return model


def _check_files(folder: Path) -> None:
    """Refuse a folder of pickled or damaged weights before anything opens it."""
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        _names_in(file)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLED_WEIGHTS)
    if pickles and not files:
        raise UnsafeFileError(
            f"model {folder}: its weights are in {pickles[0]} alone, a pickle, which could run code; expected "
            "model.safetensors: take a version of the model that has it"
        )


def set_encoder_dtype(model: Any, dtype: torch.dtype) -> None:
    """Put the encoder of a transformers classifier into ``dtype``; the head stays in fp32, inside and outside.

    Buffers keep their type, as in transformers' own loading: rotary frequencies in bf16 would turn far tokens by
    whole radians too much.
    """
    of_head = tuple(f"{name}." for name in architecture_of(model.config).head_in_encoder)
    for name, parameter in model.named_parameters():
        if name.startswith(f"{model.base_model_prefix}.") and not name.startswith(of_head):
            parameter.data = parameter.data.to(dtype)
