"""The keys of a recipe on the command line: as words ``key=value``, and as flags."""

from __future__ import annotations

import argparse
import dataclasses
import os
from typing import Any

from leantune.cli.options import help_of
from leantune.config import Recipe, load_recipe, parse_overrides, shipped_recipes
from leantune.config.load import SHORT
from leantune.config.recipe import keys

OTHERS = "other keys"
"""Heading of the keys without a group, which only ``--help-all`` shows."""


def add_recipe(parser: Any) -> None:
    """Add a recipe, its words and a flag for each of its keys."""
    parser.has_recipe = True
    parser.usage = f"{parser.prog} [RECIPE] [KEY=VALUE ...] [--KEY VALUE ...]"
    parser.add_argument("--help-all", action="help", help="show every recipe key and exit")
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs="?",
        help=f"a YAML file, or one of {', '.join(shipped_recipes())}; not needed with flags",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="any recipe key")
    skip = "the same as --blank-rows skip" if parser.shows_all else argparse.SUPPRESS
    parser.add_argument("--skip-blank-rows", action="store_true", help=skip)
    groups: dict[str, Any] = {}
    for field in sorted(keys().values(), key=lambda each: "group" not in each.metadata):
        title = field.metadata.get("group", OTHERS)
        is_shown = parser.shows_all or "common" in field.metadata
        if title not in groups:
            is_named = parser.shows_all or title != OTHERS
            groups[title] = parser.add_argument_group(title if is_named else None)
        _add_key(groups[title], field, is_shown)


def _add_key(group: Any, field: dataclasses.Field[Any], is_shown: bool) -> None:
    """The flag of a key, under both spellings; its value stays a word, which the recipe converts."""
    keywords: dict[str, Any] = {"metavar": "VALUE", "dest": f"key_{field.name}"}
    help_text = help_of(field)
    if isinstance(field.default, bool):
        keywords |= {"metavar": "BOOL", "nargs": "?", "const": "true"}
        help_text += f" [{str(field.default).lower()}]"
    flag = f"--{field.name.replace('_', '-')}"
    group.add_argument(flag, **keywords, help=help_text if is_shown else argparse.SUPPRESS)
    hidden = [field.name] if "_" in field.name else []
    for word in (*hidden, *(short for short, name in SHORT.items() if name == field.name)):
        group.add_argument(f"--{word}", **keywords, help=argparse.SUPPRESS)


def keys_from_flags(options: argparse.Namespace) -> dict[str, str]:
    """The recipe keys that were given as flags."""
    values = {name: getattr(options, f"key_{name}") for name in keys()}
    if options.skip_blank_rows:
        values["blank_rows"] = "skip"
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
