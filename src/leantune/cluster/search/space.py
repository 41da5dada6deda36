"""The search space: a range or a list of values for some recipe keys."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from leantune.config import Recipe
from leantune.config.load import read_yaml, typed_keys
from leantune.config.recipe import GROUP, Advanced, keys
from leantune.errors import UsageError
from leantune.system.messages import nearest, shown
from leantune.training.before.defaults import MOST_EPOCHS

SHARED_KEYS = (
    *("data", "validation", "test", "unlabelled", "validation_size", "labels", "model", "output"),
    *("text_column", "text_pair_column", "label_column", "max_length", "truncation_side", "seed"),
    *("max_trainable_params", "metric", "effort", "report_to", "trust_remote_code", "refit"),
)
"""Recipe keys that all trials share: rows, tokens, hold-out, metric and limit."""
LARGEST_RANK = 16
"""Largest rank in the default space without a parameter limit."""


@dataclass(frozen=True, slots=True)
class Range:
    """A range of numbers from ``low`` to ``high``, both included."""

    low: float
    high: float
    is_log: bool
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """A list of values."""

    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Space:
    """Recipe keys with the domain of each."""

    domains: tuple[tuple[str, Range | Choice], ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys in the order in which they are drawn."""
        return tuple(key for key, _ in self.domains)

    def suggest(self, trial: Any) -> dict[str, Any]:
        """Draw values for one Optuna trial, by key."""
        values: dict[str, Any] = {}
        for key, domain in self.domains:
            if isinstance(domain, Choice):
                values[key] = trial.suggest_categorical(key, domain.values)
            elif domain.is_whole:
                values[key] = trial.suggest_int(key, int(domain.low), int(domain.high), log=domain.is_log)
            else:
                values[key] = trial.suggest_float(key, domain.low, domain.high, log=domain.is_log)
        return self.written(values)

    def written(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values as written to a recipe: numbers from a range are rounded to three digits."""
        drawn = {key for key, domain in self.domains if isinstance(domain, Range) and not domain.is_whole}
        return {key: rounded(value) if key in drawn else value for key, value in values.items()}

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Return whether the values of all keys are in the space."""
        return all(_holds(domain, values.get(key)) for key, domain in self.domains)

    def to_json(self) -> dict[str, Any]:
        """Return the space in the format of a space file."""
        return {
            key: list(domain.values)
            if isinstance(domain, Choice)
            else {"low": domain.low, "high": domain.high, "log": domain.is_log}
            for key, domain in self.domains
        }


def rounded(number: float) -> float:
    """Round a number to three significant digits.

    >>> rounded(0.00123456)
    0.00123
    """
    return float(f"{number:.3g}")


def _holds(domain: Range | Choice, value: Any) -> bool:
    if isinstance(domain, Choice):
        return value in domain.values
    return isinstance(value, int | float) and domain.low <= value <= domain.high


def default_space(
    asked: Recipe, resolved: Recipe, rank_of: Callable[[str], int | None], smallest_rank: int
) -> Space:
    """Return the default space: learning rate, targets, rank and epochs, as far as the recipe does not set them.

    Args:
        asked: the user's recipe, whose values all trials use.
        resolved: the recipe with defaults that depend on the encoder and the rows.
        rank_of: returns the largest rank within the limit for given targets, or None if none fits.
        smallest_rank: smallest rank of the method.

    Raises:
        UsageError: if the recipe sets all of them.
    """
    domains: dict[str, Range | Choice] = {}
    assert resolved.learning_rate is not None, "prepare_run resolves it"
    assert resolved.epochs is not None
    targets = ("all-linear", "attention") if asked.targets is None else (asked.targets,)
    paid = {each: rank for each in targets if (rank := rank_of(each)) is not None}
    if asked.learning_rate is None:
        low, high = rounded(resolved.learning_rate / 10), rounded(resolved.learning_rate * 3)
        domains["learning_rate"] = Range(low, high, is_log=True, is_whole=False)
    if asked.targets is None and len(paid) > 1:
        domains["targets"] = Choice(tuple(paid))
    if asked.init_rank is None and asked.target_rank is None and paid:
        most = max(paid.values()) if asked.max_trainable_params is not None else LARGEST_RANK
        if most > smallest_rank:
            domains["init_rank"] = Range(smallest_rank, most, is_log=True, is_whole=True)
    if asked.epochs is None:
        most_epochs = max(resolved.epochs + 1, min(MOST_EPOCHS, 2 * resolved.epochs))
        domains["epochs"] = Range(max(1, resolved.epochs // 2), most_epochs, is_log=False, is_whole=True)
    if not domains:
        raise UsageError(
            "nothing to search: the recipe sets learning_rate, targets, init_rank and epochs; remove one of them, or "
            "use --space"
        )
    return Space(tuple(domains.items()))


def read_space(path: str) -> Space:
    """Read a space from a YAML file: a list of values per key, or ``{low: 1, high: 8}`` with an optional ``log: true``.

    Raises:
        UsageError: if a key or a domain is invalid.
    """
    known = [key for key in keys() if key not in SHARED_KEYS]
    domains: dict[str, Range | Choice] = {}
    for given, value in read_yaml(path).items():
        key = str(given).removeprefix(f"{GROUP}.")
        if key in SHARED_KEYS:
            raise UsageError(
                f"{path}: {key} cannot be searched, because all trials share it; set it with {key}=VALUE"
            )
        if key not in known:
            raise UsageError(f"{path}: unknown key {shown(given)}{nearest(key, known)}")
        domains[key] = _domain(path, key, value)
    if not domains:
        raise UsageError(f"{path}: the file contains no keys, expected lines such as 'epochs: [2, 4, 8]'")
    return Space(tuple(domains.items()))


def _domain(path: str, key: str, value: Any) -> Range | Choice:
    if isinstance(value, list) and value:
        return Choice(tuple(typed_keys({key: each}, f"{path}:{key}")[key] for each in value))
    if not isinstance(value, dict) or not {"low", "high"} <= value.keys() <= {"low", "high", "log"}:
        raise UsageError(
            f"{path}: {key}: {shown(value)}, expected a list of values, or {{low: ..., high: ...}} with an optional "
            "log: true"
        )
    low, high = (typed_keys({key: value[end]}, f"{path}:{key}")[key] for end in ("low", "high"))
    hint = (typing.get_type_hints(Recipe) | typing.get_type_hints(Advanced))[key]
    if not isinstance(low, int | float) or isinstance(low, bool) or not low < high:
        raise UsageError(
            f"{path}: {key}: low {shown(low)} and high {shown(high)} must be numbers with low < high"
        )
    is_log = value.get("log", False)
    if not isinstance(is_log, bool) or (is_log and low <= 0):
        raise UsageError(f"{path}: {key}: log must be true or false, and true only if low is above 0")
    return Range(low, high, is_log=is_log, is_whole=int in (hint, *typing.get_args(hint)))


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return a recipe with other values for some keys, including advanced ones.

    Raises:
        UsageError: if the values are invalid together.
    """
    advanced = {key: value for key, value in values.items() if key in Advanced.__dataclass_fields__}
    own = {key: value for key, value in values.items() if key not in advanced}
    return replace(recipe, **own, advanced=replace(recipe.advanced, **advanced))
