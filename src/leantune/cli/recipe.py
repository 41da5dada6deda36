"""The keys of a recipe on the command line: as words ``key=value``, and as flags."""

from __future__ import annotations

import argparse
import dataclasses
import os
from typing import Any

from leantune.cli.options import help_of
from leantune.config import Recipe, load_recipe, parse_overrides, shipped_recipes
from leantune.config.recipe import keys

GROUPS = {
    "data": (
        *("data", "validation", "test", "unlabelled", "validation_size"),
        *("text_column", "text_pair_column", "label_column", "labels", "problem_type"),
        "max_length",
    ),
    "encoder and budget": ("model", "max_trainable_params", "method", "targets", "init_rank", "head"),
    "training": (
        *("output", "effort", "epochs", "batch_size", "learning_rate", "class_weights", "loss", "metric"),
        *("precision", "seed"),
    ),
}
"""The recipe keys that ``--help`` shows; ``--help-all`` shows the others, too."""


def add_recipe(parser: Any) -> None:
    """Add a recipe, its words and a flag for each of its keys."""
    parser.usage = f"{parser.prog} [RECIPE] [KEY=VALUE ...] [--KEY VALUE ...]"
    parser.add_argument("--help-all", action="help", help="show every recipe key and exit")
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs="?",
        help=f"a YAML file, or one of {', '.join(shipped_recipes())}; not needed with flags",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="any recipe key")
    known = keys()
    grouped = [name for names in GROUPS.values() for name in names]
    groups = {**GROUPS, "other keys": [name for name in known if name not in grouped]}
    for title, names in groups.items():
        is_shown = parser.shows_all or title in GROUPS
        group = parser.add_argument_group(title if is_shown else None)
        for name in names:
            _add_key(group, known[name], is_shown)


def _add_key(group: Any, field: dataclasses.Field[Any], is_shown: bool) -> None:
    """The flag of a key, under both spellings; its value stays a word, which the recipe converts."""
    keywords: dict[str, Any] = {"metavar": "VALUE", "dest": f"key_{field.name}"}
    help_text = help_of(field)
    if isinstance(field.default, bool):
        keywords |= {"metavar": "BOOL", "nargs": "?", "const": "true"}
        help_text += f" [{str(field.default).lower()}]"
    flag = f"--{field.name.replace('_', '-')}"
    group.add_argument(flag, **keywords, help=help_text if is_shown else argparse.SUPPRESS)
    if "_" in field.name:
        group.add_argument(f"--{field.name}", **keywords, help=argparse.SUPPRESS)


def keys_from_flags(options: argparse.Namespace) -> dict[str, str]:
    """The recipe keys that were given as flags."""
    values = {name: getattr(options, f"key_{name}") for name in keys()}
    return {name: value for name, value in values.items() if value is not None}


def recipe_from(options: argparse.Namespace) -> Recipe:
    """The recipe of a command line: flags win over words, and words over the file.

    Raises:
        UsageError: naming every unknown key and every invalid value.
    """
    words = list(options.overrides)
    source = options.recipe
    if source and "=" in source and not os.path.isfile(source):
        words, source = [source, *words], None
    return load_recipe(source, parse_overrides(words) | keys_from_flags(options))
