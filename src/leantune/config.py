"""Recipe: what the user chose, typed and checked. Run-time facts (steps, ranks, labels) are not here.

A recipe is a YAML file of flat keys, a shipped name, ``key=value`` words, or flags; later ones win.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from leantune.errors import UsageError


def _key(doc: str, default: Any = dataclasses.MISSING, **extra: Any) -> Any:
    """A recipe key: its help text stands beside it and is what ``--help`` and the docs print."""
    return field(default=default, metadata={"doc": doc, **extra})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that a user can choose. Numbers of steps are optimiser steps.

    Raises:
        UsageError: one line with every value that cannot be.
    """

    data: str = _key(
        "training rows: a file (csv, tsv, jsonl, parquet, arrow), a datasets folder, or ORG/NAME[:SPLIT] on the hub"
    )
    model: str = _key("pretrained encoder: a folder, or a name on the hub")
    output: str = _key("folder of the run", "runs/latest")
    validation: str | None = _key(
        "validation rows, used as they are; none: a hold-out of the training rows", None
    )
    test: str | None = _key("test rows, measured once at the end", None)
    text_column: str | None = _key("column of the text; default 'text'", None)
    text_pair_column: str | None = _key("column of the second text of a pair", None)
    label_column: str | None = _key("column of the label; default 'label', else 'target'", None)
    labels: tuple[str, ...] | None = _key("label names in the order of their ids; default: sorted", None)
    method: Literal["adalora", "lora"] = _key(
        "adalora, or plain LoRA: uniform rank, no E, no orthogonality, nothing is pruned", "adalora"
    )
    max_trainable_params: int | None = _key("limit on trainable parameters at any time of the run", None)
    init_rank: int | None = _key("triplets per adapted layer at the start; default: from the limit", None)
    target_rank: int | None = _key(
        "mean triplets per adapted layer at the end; default: 2/3 of init_rank, in LoRA all of it", None
    )
    targets: str = _key(
        "layers to adapt: attention (query and value), all-linear, or parts of names: query,value",
        "attention",
    )
    alpha: float | None = _key("scale of the update is alpha / init_rank; default: 1.5 x init_rank", None)
    adapter_init: Literal["lora", "orthonormal", "normal"] = _key(
        "AdaLoRA's start: lora (B zero, E one), orthonormal A and B, or normal (N(0, 0.02) as published)",
        "lora",
    )
    lora_dropout: float = _key("dropout on the input of the adapters", 0.1)
    head: Literal["full", "linear"] = _key("train the whole head or only its output layer", "full")
    epochs: int = _key("passes over the training rows", 3)
    batch_size: int = _key("texts per optimiser step", 32)
    accumulate: int = _key("micro-steps that a batch is split into, to save memory", 1)
    eval_batch_size: int = _key("texts per batch in evaluation and prediction", 64)
    learning_rate: float = _key("peak learning rate", 1e-3)
    e_learning_rate_ratio: float = _key("learning rate of E over that of everything else", 1.0)
    warmup: float = _key("learning-rate warm-up: a fraction of the steps below 1, or a number of steps", 0.1)
    weight_decay: float = _key("AdamW decay, not on biases, norms and E", 0.01)
    max_grad_norm: float = _key("clip gradients to this norm; 0: no clipping", 1.0)
    label_smoothing: float = _key("share of the target spread over all classes", 0.0)
    r_drop: float = _key(
        "weight of the divergence between two forward passes of a text with other dropout masks (R-Drop's "
        "alpha); above 0 a step takes twice as long",
        0.0,
    )
    class_weights: Literal["none", "balanced"] = _key("weights of the classes in the loss", "none")
    rank_warmup: float = _key("steps before ranks fall (the paper's t_i): a fraction below 1, or steps", 0.1)
    rank_final: float = _key(
        "steps after ranks are final (the paper's t_f): a fraction below 1, or steps", 0.4
    )
    allocate_every: float = _key(
        "steps between allocations (the paper's Delta T): a fraction below 1, or steps", 0.01
    )
    allocation: Literal["triplets", "parameters"] = _key(
        "what the budget counts: triplets, as in the paper, or parameters, with importance per parameter",
        "triplets",
    )
    beta1: float = _key("decay of the sensitivity average", 0.85)
    beta2: float = _key("decay of the uncertainty average", 0.85)
    orth_reg_weight: float = _key("weight of the orthogonality penalty; 0.5 as published", 0.0)
    warm_start: bool = _key("start the head from a linear probe", True)
    warm_start_scale: float = _key(
        "what the weights of the linear probe are multiplied by to start from", 0.3
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = _key(
        "type of the frozen encoder; auto: bf16 where the machine has it", "auto"
    )
    max_length: int = _key("tokens kept of a text", 256)
    validation_size: float = _key("hold-out: a fraction below 1, or a number of rows", 0.1)
    keep_best: int = _key("best checkpoints kept by the validation metric", 2)
    metric: Literal["accuracy", "macro_f1", "log_loss"] = _key(
        "what the best checkpoint is best at", "accuracy"
    )
    save_every: int = _key("steps between checkpoints; 0: at evaluations only", 0)
    evaluate_every: int = _key("steps between evaluations; 0: once an epoch", 0)
    early_stop: int = _key(
        "stop after this many evaluations without improvement, once ranks are final; 0: never", 0
    )
    refit: bool = _key("one more epoch on training and validation rows after the selection", False)
    seed: int = _key("of the hold-out, the order of rows, the adapters and the dropout masks", 42)
    trust_remote_code: bool = _key("allow code that comes with a hub model", False)

    def __post_init__(self) -> None:
        problems = [problem for problem in self._problems() if problem]
        if problems:
            raise UsageError("; ".join(problems))

    def _problems(self) -> Iterable[str]:
        for name in ("epochs", "batch_size", "accumulate", "eval_batch_size", "max_length", "keep_best"):
            yield _must_be(name, getattr(self, name), "at least 1", getattr(self, name) >= 1)
        for name in ("init_rank", "target_rank", "max_trainable_params"):
            value = getattr(self, name)
            yield _must_be(name, value, "at least 1", value is None or value >= 1)
        for name in ("save_every", "evaluate_every", "early_stop", "warmup", "rank_warmup", "rank_final"):
            yield _must_be(name, getattr(self, name), "at least 0", getattr(self, name) >= 0)
        for name in (
            "learning_rate",
            "e_learning_rate_ratio",
            "warm_start_scale",
            "allocate_every",
            "validation_size",
        ):
            yield _must_be(name, getattr(self, name), "above 0", getattr(self, name) > 0)
        yield _must_be("alpha", self.alpha, "above 0", self.alpha is None or self.alpha > 0)
        for name in ("weight_decay", "max_grad_norm", "orth_reg_weight", "r_drop"):
            yield _must_be(name, getattr(self, name), "at least 0", getattr(self, name) >= 0)
        for name in ("lora_dropout", "label_smoothing", "beta1", "beta2"):
            yield _must_be(name, getattr(self, name), "at least 0 and below 1", 0 <= getattr(self, name) < 1)
        if self.init_rank is not None and self.target_rank is not None and self.method == "adalora":
            yield _must_be(
                "init_rank",
                self.init_rank,
                f"above target_rank={self.target_rank}",
                self.init_rank > self.target_rank,
            )
        yield _must_be(
            "adapter_init",
            self.adapter_init,
            "lora with method=lora, which has no other",
            self.method == "adalora" or self.adapter_init == "lora",
        )
        yield _must_be(
            "accumulate",
            self.accumulate,
            f"at most batch_size={self.batch_size}",
            self.accumulate <= self.batch_size,
        )

    def alpha_for(self, init_rank: int) -> float:
        """The alpha that the user gave, or one that scales the update alike at every rank."""
        return self.alpha if self.alpha is not None else 1.5 * init_rank

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON and YAML types, every key included."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def to_yaml(self) -> str:
        """The resolved recipe as a file that runs the same again."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def _must_be(name: str, value: object, expected: str, holds: bool) -> str:
    return "" if holds else f"{name} must be {expected}. Got {value} instead"


ALIASES: dict[str, str] = {
    "init_r": "init_rank",
    "target_r": "target_rank",
    "lora_r": "init_rank",
    "tinit": "rank_warmup",
    "tfinal": "rank_final",
    "deltaT": "allocate_every",
    "lora_alpha": "alpha",
    "target_modules": "targets",
    "model_name_or_path": "model",
    "dataset_name": "data",
    "train_file": "data",
    "validation_file": "validation",
    "test_file": "test",
    "text_column_name": "text_column",
    "label_column_name": "label_column",
    "max_seq_length": "max_length",
    "output_dir": "output",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "gradient_accumulation_steps": "accumulate",
    "label_smoothing_factor": "label_smoothing",
    "warmup_ratio": "warmup",
    "save_steps": "save_every",
    "eval_steps": "evaluate_every",
    "save_total_limit": "keep_best",
    "metric_for_best_model": "metric",
}
"""Spellings of PEFT, of the AdaLoRA authors and of transformers that users know."""


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with leantune."""
    folder = resources.files("leantune") / "recipes"
    return sorted(item.name[: -len(".yaml")] for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_recipe(source: str | None, overrides: Mapping[str, Any]) -> Recipe:
    """A recipe from a shipped name or a YAML file, with ``overrides`` on top.

    Args:
        source: a shipped name, a path, or None for overrides alone.
        overrides: by key or alias; strings are read as the key's type.

    Raises:
        UsageError: naming every unknown key and every value of the wrong type.
    """
    values = _typed(_read_yaml(source) if source else {}, source or "recipe")
    values |= _typed(overrides, "command line")
    missing = [name for name in ("data", "model") if not values.get(name)]
    if missing:
        raise UsageError(
            f"{' and '.join(missing)} missing: give {' '.join(f'{name}=...' for name in missing)} "
            f"or a recipe ({', '.join(shipped_recipes())}, or a YAML file)"
        )
    return Recipe(**values)


def parse_overrides(words: Iterable[str]) -> dict[str, str]:
    """``key=value`` words as a dict.

    Raises:
        UsageError: for a word without ``=``.
    """
    overrides = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"'{word}' is not key=value; the recipe comes first, then key=value words")
        overrides[key.strip()] = value.strip()
    return overrides


def _read_yaml(source: str) -> Mapping[str, Any]:
    path = Path(source)
    if source in shipped_recipes():
        text = (resources.files("leantune") / "recipes" / f"{source}.yaml").read_text("utf-8")
    elif path.is_file():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{source}: not UTF-8 text; expected a YAML recipe") from error
    else:
        near = difflib.get_close_matches(source, shipped_recipes(), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(
            f"no recipe '{source}': expected a YAML file or one of {', '.join(shipped_recipes())}{hint}"
        )
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise UsageError(f"{source}{place}: not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(values, Mapping):
        raise UsageError(f"{source}: expected key: value lines, found {type(values).__name__}")
    return values


def _typed(values: Mapping[str, Any], place: str) -> dict[str, Any]:
    known = {f.name: f for f in fields(Recipe)}
    hints = typing.get_type_hints(Recipe)
    typed: dict[str, Any] = {}
    problems = []
    for given, value in values.items():
        name = ALIASES.get(given, given)
        if name not in known:
            near = difflib.get_close_matches(given, [*known, *ALIASES], 1)
            problems.append(f"unknown key '{given}'" + (f" (did you mean {near[0]}?)" if near else ""))
            continue
        try:
            typed[name] = _convert(value, hints[name])
        except ValueError as error:
            problems.append(f"{given} must be {error}. Got {value!r} instead")
    if problems:
        raise UsageError(f"{place}: " + "; ".join(problems))
    return typed


def _convert(value: Any, hint: Any) -> Any:
    """``value`` as the type of ``hint``; a ValueError says what it must be."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        inner = next(arg for arg in typing.get_args(hint) if arg is not types.NoneType)
        return None if value in (None, "", "none", "null") else _convert(value, inner)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if str(value).lower() not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return str(value).lower()
    if typing.get_origin(hint) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ValueError("a list, or names separated by commas")
        return tuple(str(item).strip() for item in items)
    return _SCALARS[hint](value)


def _to_bool(value: Any) -> bool:
    words = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    if str(value).lower() not in words:
        raise ValueError("true or false")
    return words[str(value).lower()]


def _to_int(value: Any) -> int:
    try:
        number = float(str(value).replace("_", "").replace(",", ""))
    except ValueError:
        raise ValueError("a whole number") from None
    if isinstance(value, bool) or number != int(number):
        raise ValueError("a whole number")
    return int(number)


def _to_float(value: Any) -> float:
    try:
        number = float(str(value).replace("_", ""))
    except ValueError:
        raise ValueError("a number") from None
    if isinstance(value, bool) or number != number or number in (float("inf"), float("-inf")):
        raise ValueError("a finite number")
    return number


def _to_str(value: Any) -> str:
    if isinstance(value, dict | list):
        raise ValueError("text")
    return str(value)


_SCALARS: dict[Any, Any] = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_str}
