"""Loads recipes from YAML files, shipped names, ``key=value`` words and flags; later ones win.

A key of the group ``advanced`` may also be given outside it, as ``warmup`` or ``advanced.warmup``; no key is in both
groups.
"""

from __future__ import annotations

import difflib
import reprlib
import typing
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from leantune.config.convert import convert
from leantune.config.recipe import GROUP, Advanced, Recipe, keys
from leantune.errors import CheckpointError, UsageError

SHORT = {"encoder": "model", "budget": "max_trainable_params", "lr": "learning_rate"}
"""Short names of keys, also accepted as flags."""
ALIASES: dict[str, str] = {
    **SHORT,
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
    "per_device_eval_batch_size": "eval_batch_size",
    "label_smoothing_factor": "label_smoothing",
    "warmup_ratio": "warmup",
    "save_steps": "save_every",
    "eval_steps": "evaluate_every",
    "metric_for_best_model": "metric",
}
"""Other names of keys: short ones, and those of PEFT, of the AdaLoRA paper's code and of transformers."""

OF_ANOTHER_MEANING = {
    "gradient_accumulation_steps": "batch_size counts the texts of an optimiser step: multiply it by this number, and "
    "set accumulate to it",
    "per_device_train_batch_size": "batch_size counts the texts of an optimiser step over all processes: multiply it "
    "by the number of processes and by gradient_accumulation_steps",
    "save_total_limit": "keep_best counts the best checkpoints, and the last two are kept as well",
}
"""Settings of transformers that have no recipe key, with what to use instead."""

_AS_FLAGS = {"data": "--data train.csv", "model": "--model asset:minilm"}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The loader of libyaml if it is installed, because it is ten times as fast."""
MAX_BYTES = 2**23
MAX_DEPTH = 10
"""Largest nesting depth of a recipe file."""
MAX_PROBLEMS = 20
"""Largest number of problems named in one message."""


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that are shipped with leantune."""
    folder = resources.files("leantune.config") / "recipes"
    return sorted(item.name[: -len(".yaml")] for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_recipe(source: str | None, overrides: Mapping[str, Any], *, place: str = "command line") -> Recipe:
    """Load a recipe from a shipped name or a YAML file and apply ``overrides``.

    Args:
        source: a shipped name, a path, or None to use only the overrides.
        overrides: values by key or alias; strings are converted to the key's type.
        place: the origin of the overrides, for messages.

    Raises:
        UsageError: the recipe is invalid; the message names every unknown key and every value of the wrong type.
    """
    values = typed_keys(read_yaml(source) if source else {}, source or "recipe")
    values |= typed_keys(overrides, place)
    missing = [name for name in ("data", "model") if not values.get(name)]
    if missing:
        raise UsageError(
            f"{' and '.join(missing)} missing: give {' '.join(f'{name}=...' for name in missing)} (as a flag "
            f"{' '.join(_AS_FLAGS[name] for name in missing)}), or a recipe ({', '.join(shipped_recipes())}, or a YAML "
            "file)"
        )
    advanced = {name: values.pop(name) for name in list(values) if name not in Recipe.__dataclass_fields__}
    return Recipe(**values, advanced=Advanced(**advanced))


def recipe_of_run(run: Path, recorded: Mapping[str, Any]) -> Recipe:
    """Return the recipe in a run's record, which is not affected by edits of the run's ``recipe.yaml``.

    Raises:
        CheckpointError: the recorded recipe is invalid.
    """
    try:
        return load_recipe(None, recorded, place="recipe")
    except UsageError as error:
        from leantune.config.record.run import (
            RECORD,
        )  # imported here because its classes take a third of the start-up time

        raise CheckpointError(f"{run / RECORD}: damaged: {error}") from error


def parse_overrides(words: Iterable[str]) -> dict[str, str]:
    """Parse ``key=value`` words into a dict.

    Raises:
        UsageError: a word has no ``=``.
    """
    overrides = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"'{word}' is not key=value; the recipe comes first, then key=value words")
        overrides[key.strip()] = value.strip()
    return overrides


def read_yaml(source: str) -> Mapping[str, Any]:
    """Read the keys and values of a shipped recipe or of a YAML file.

    Raises:
        UsageError: the source is neither, or contains anything but keys and values.
    """
    path = Path(source)
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise UsageError(
            f"{source}: {path.stat().st_size:,} bytes, expected a recipe of at most {MAX_BYTES:,}"
        )
    if source in shipped_recipes():
        text = (resources.files("leantune.config") / "recipes" / f"{source}.yaml").read_text("utf-8")
    elif path.is_file():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{source}: not UTF-8 text; expected a YAML recipe{_hint(path)}") from error
    else:
        near = difflib.get_close_matches(source[:60], shipped_recipes(), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(
            f"no recipe '{source}': expected a YAML file or one of {', '.join(shipped_recipes())}{hint}"
        )
    try:
        _refuse_bombs(text, source)
        node = yaml.compose(text, _Loader)
        _refuse_repeated_keys(node, source)
        values = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise UsageError(
            f"{source}{place}: not YAML: {getattr(error, 'problem', error)}{_hint(path)}"
        ) from error
    except ValueError as error:  # an invalid date
        raise UsageError(
            f"{source}: a value cannot be read as the type that it looks like: {error}; write it in quotes"
        ) from error
    if not isinstance(values, Mapping):
        raise UsageError(f"{source}: expected key: value lines, found {type(values).__name__}{_hint(path)}")
    return values


def _hint(path: Path) -> str:
    """What to do where a file of rows stands in the place of the recipe."""
    is_recipe = path.suffix.lower() in (".yaml", ".yml", "")
    return "" if is_recipe else f"; if it holds the rows, write --data {path}"


def _refuse_bombs(text: str, source: str) -> None:
    """Refuse deep nesting and aliases, with which 600 bytes can expand to gigabytes.

    Raises:
        UsageError: the text has either; the message names the line.
    """
    depth = 0
    for event in yaml.parse(text, _Loader):
        place = f"{source}:{event.start_mark.line + 1}" if event.start_mark else source
        if isinstance(event, yaml.AliasEvent):
            raise UsageError(
                f"{place}: an alias (*{_shown(event.anchor)}), expected the value itself: write it again"
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise UsageError(f"{place}: nested more than {MAX_DEPTH} deep, expected key: value lines")


def _refuse_repeated_keys(node: yaml.Node | None, source: str) -> None:
    """Refuse repeated keys, which YAML forbids but PyYAML accepts.

    Raises:
        UsageError: a key is repeated; the message names the key and both lines.
    """
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        if key.value in lines:
            raise UsageError(
                f"{source}:{line}: '{key.value}' is given here and in line {lines[key.value]}; keep one"
            )
        lines[key.value] = line
    for _, value in node.value:
        _refuse_repeated_keys(value, source)


def typed_keys(values: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Convert values to the types of their keys and return them by key name, for keys of both groups.

    Raises:
        UsageError: keys are unknown or repeated, or values are invalid; the message names all of them.
    """
    known = keys()
    hints = typing.get_type_hints(Recipe) | typing.get_type_hints(Advanced)
    typed: dict[str, Any] = {}
    problems: list[str] = []
    given_as: dict[str, str] = {}
    for given, value in _flat(values, problems):
        name = ALIASES.get(given, given)
        if given in OF_ANOTHER_MEANING:
            problems.append(f"{given} is not a recipe key: {OF_ANOTHER_MEANING[given]}")
            continue
        if name in given_as:
            problems.append(
                f"{' and '.join(sorted({given_as[name], given}))} are spellings of one key; keep one of them"
                if given != given_as[name]
                else f"{given} is given both in and outside of advanced; keep one of them"
            )
            continue
        given_as[name] = given
        if name not in known:
            near = difflib.get_close_matches(given[:60], [*known, *ALIASES], 1)
            problems.append(f"unknown key {_shown(given)}" + (f" (did you mean {near[0]}?)" if near else ""))
            continue
        if name == "targets" and isinstance(value, list) and all(isinstance(each, str) for each in value):
            value = ",".join(value)  # files of transformers and PEFT have lists, as in target_modules
        try:
            typed[name] = convert(value, hints[name])
        except ValueError as error:
            problems.append(f"{given} must be {error}. Got {_shown(value)} instead")
    if problems:
        more = len(problems) - MAX_PROBLEMS
        problems[MAX_PROBLEMS:] = [f"and {more} more"] if more > 0 else []
        raise UsageError(f"{place}: " + "; ".join(problems))
    return typed


def _flat(values: Mapping[str, Any], problems: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of both groups; an invalid ``advanced`` group is added to ``problems``."""
    for key, value in values.items():
        name = str(key)
        if name == GROUP and isinstance(value, Mapping):
            yield from ((str(inner), each) for inner, each in value.items())
        elif name == GROUP:
            problems.append(f"{GROUP} must be a group of keys. Got {_shown(value)} instead")
        else:
            yield name.removeprefix(f"{GROUP}."), value


def _shown(value: object) -> str:
    """Return the ``repr`` of a value, cut to one line."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = shortener.maxlong = 60
    return shortener.repr(value)
