"""Read a model folder: its config, its weights (safetensors only) and transformers' own classifier.

`hub.resolve_model` finds the folder of an asset or a hub name.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shlex
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leantune.config.classifier_file import FILE
from leantune.config.problem_type import MULTI_LABEL, SINGLE_LABEL
from leantune.data.labels import LabelMap
from leantune.errors import CheckpointError, UnsafeFileError, UsageError, first_line
from leantune.system.checksums import update_from

_PICKLED_WEIGHTS = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


_VOICE = threading.RLock()
"""Held while changing the verbosity of transformers, which is a setting of the whole process."""


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A model folder with its config, for all functions that load the model."""

    folder: str
    config: Any
    """The config as a transformers object."""
    trust_remote_code: bool = False
    """Whether the user allows code that comes with the model."""

    @classmethod
    def at(cls, folder: str, *, num_labels: int | None = None, trust_remote_code: bool = False) -> Pretrained:
        """The model in ``folder``, with ``num_labels`` classes if given.

        Raises:
            UsageError: if the folder does not exist, or has no readable config.
            UnsafeFileError: if it comes with code of its own that the user has not allowed.
        """
        from transformers import AutoConfig

        read_settings(folder, trust_remote_code=trust_remote_code)
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        except (OSError, ValueError) as error:
            raise UsageError(f"model {folder}: cannot be read: {first_line(error)}") from error
        if num_labels is not None:
            config.id2label = {i: f"LABEL_{i}" for i in range(num_labels)}
            config.label2id = {name: i for i, name in config.id2label.items()}
        return cls(folder, config, trust_remote_code)

    def with_dropout(self, probability: float | None) -> Pretrained:
        """A copy with this probability for all kinds of dropout that the config names; None: unchanged."""
        return replace(self, config=with_dropout(self.config, probability))

    def with_padding(self, token_id: int | None) -> Pretrained:
        """A copy with this padding token, if the config names none.

        Decoders often name none, and transformers then refuses batches of several texts.
        """
        if token_id is None or getattr(self.config, "pad_token_id", None) is not None:
            return self
        config = copy.deepcopy(self.config)
        config.pad_token_id = token_id
        return replace(self, config=config)

    def with_labels(self, labels: LabelMap) -> Pretrained:
        """A copy with the names of ``labels``, and with one or several labels per text."""
        config = copy.deepcopy(self.config)
        config.id2label, config.label2id = labels.id2label, labels.label2id
        config.problem_type = MULTI_LABEL if labels.is_multi_label else SINGLE_LABEL
        return replace(self, config=config)


def read_settings(source: str, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """The ``config.json`` of a model folder, as it is on disk.

    Raises:
        UsageError: if the folder does not exist, or has no readable config.
        UnsafeFileError: if it comes with code of its own that the user has not allowed.
    """
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
    found = {}
    for name in ("config.json", "tokenizer_config.json"):
        try:
            found[name] = json.loads((folder / name).read_bytes()) if (folder / name).is_file() else {}
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"model {source}: {name} cannot be read: {first_line(error)}") from error
        if not isinstance(found[name], dict):
            raise UsageError(
                f"model {source}: {name} holds a {type(found[name]).__name__}, expected an object"
            )
        if found[name].get("auto_map") and not trust_remote_code:
            raise UnsafeFileError(
                f"model {source}: its {name} refers to code that comes with it (auto_map), which is not run by "
                "default: read that code, then add --trust-remote-code true, or use another model"
            )
    return found["config.json"]


def with_dropout(config: Any, probability: float | None) -> Any:
    """A copy of the config with this probability for all kinds of dropout that it names; None: unchanged.

    A field that is None stays None: in transformers it takes the value of another field (``classifier_dropout``).
    """
    changed = copy.deepcopy(config)
    if probability is not None:
        for name, value in config.to_dict().items():
            if "dropout" in name and isinstance(value, int | float) and not isinstance(value, bool):
                setattr(changed, name, probability)
    return changed


def weights_sha256(folder: str) -> str:
    """Hex SHA-256 of all safetensors files of a model folder, in the order of their names."""
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
    """Silence progress bars and messages of transformers; one thread at a time."""
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


def read_weights(source: str) -> dict[str, Tensor]:
    """All tensors in the safetensors files of a model folder by name, as they are stored.

    Norm parameters called ``gamma`` and ``beta``, as in TensorFlow, are renamed to ``weight`` and ``bias``.

    Raises:
        OSError: if there are no weights.
        UnsafeFileError: if the weights are only in a pickle.
        CheckpointError: naming a file that is damaged.
    """
    from safetensors.torch import load_file

    check_weight_files(Path(source))
    files = sorted(Path(source).glob("*.safetensors"))
    if not files:
        raise FileNotFoundError("no file named model.safetensors in it")
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    return {_todays_name(name): tensor for name, tensor in tensors.items()}


def _todays_name(name: str) -> str:
    place, _, last = name.rpartition(".")
    return f"{place}.{ {'gamma': 'weight', 'beta': 'bias'}.get(last, last) }" if place else name


def check_shape(source: str, name: str, found: Sequence[int], expected: Sequence[int]) -> None:
    """Refuse a tensor that does not fit its config.

    Raises:
        CheckpointError: naming the tensor and both shapes.
    """
    if tuple(found) != tuple(expected):
        raise CheckpointError(
            f"model {source}: {name} has shape {tuple(found)}, its config.json says {tuple(expected)}: "
            "the weights belong to another model"
        )


_HEADS = ("classifier.", "pre_classifier.", "score.")
"""Prefixes of head parameters in transformers."""


def check_none_missing(source: str, missing: Sequence[str]) -> None:
    """Refuse weights that lack tensors.

    Raises:
        CheckpointError: naming the first of ``missing``.
    """
    is_of_a_run = Path(source, FILE).is_file()
    if missing and not is_of_a_run and all(name.startswith(_HEADS) for name in missing):
        raise CheckpointError(
            f"model {source}: an encoder without a trained head (no {sorted(missing)[0]} in its weights), expected a "
            "classifier: give the folder of a run, or train this one first: leantune train --data train.csv "
            f"--model {shlex.quote(source)}"
        )
    if missing:
        raise CheckpointError(
            f"model {source}: its weights lack {sorted(missing)[0]}"
            + (f" and {len(missing) - 1} more tensors" if len(missing) > 1 else "")
            + " of the architecture in its config.json: the weights belong to another model"
        )


def load_transformers(pretrained: Pretrained, *, may_lack: tuple[str, ...] = ()) -> Any:
    """Transformers' own classifier in fp32, with all weights from the folder.

    Args:
        pretrained: the folder and its config.
        may_lack: modules that may be missing or have another shape there; transformers initialises them.

    Raises:
        OSError: if there are no weights.
        UnsafeFileError: if the weights are only in a pickle.
        CheckpointError: naming a file that is damaged, or a tensor that is missing or has another shape.
    """
    from transformers import AutoModelForSequenceClassification

    source = pretrained.folder
    check_weight_files(Path(source))
    try:
        with quiet_transformers():
            model, found = AutoModelForSequenceClassification.from_pretrained(
                source,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # its error only says that some differ; the check below says which
                output_loading_info=True,
                config=pretrained.config,
                trust_remote_code=pretrained.trust_remote_code,
            )
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"model {source}: {first_line(error)}") from error
    drawn = tuple(f"{name}." for name in may_lack)
    for name, shape, expected in sorted(found["mismatched_keys"]):
        if not name.startswith(drawn or "\0"):
            check_shape(source, name, shape, expected)
    check_none_missing(source, [n for n in found["missing_keys"] if not n.startswith(drawn or "\0")])
    return model


def check_weight_files(folder: Path) -> None:
    """Refuse a folder with pickled or damaged weights before anything opens it."""
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        _names_in(file)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLED_WEIGHTS)
    if pickles and not files:
        raise UnsafeFileError(
            f"model {folder}: its weights are only in {pickles[0]}, a pickle, which could run code; expected "
            "model.safetensors: take a version of the model that has it"
        )
