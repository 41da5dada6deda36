"""Prints the recipe keys as the Markdown tables of ``docs/recipe.md``: ``python -m leantune.config.reference``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from leantune.config.load import ALIASES
from leantune.config.recipe import key_groups


def tables() -> str:
    """Return the tables of both groups of keys, with their defaults, meanings and other spellings."""
    own, advanced = map(_table, key_groups())
    return "\n".join(["## Keys", "", *own, "", "## The group `advanced`", "", *advanced])


def _table(keys: Iterable[dataclasses.Field[Any]]) -> Iterator[str]:
    yield "| key | default | meaning | other spellings |"
    yield "|---|---|---|---|"
    for key in keys:
        spellings = ", ".join(f"`{alias}`" for alias, name in ALIASES.items() if name == key.name)
        yield f"| `{key.name}` | {default_of(key)} | {key.metadata['doc']} | {spellings} |"


def default_of(key: dataclasses.Field[Any]) -> str:
    """Return the default of a key as a user would type it; ``required`` if there is none."""
    if key.default is dataclasses.MISSING:
        return "required"
    if isinstance(key.default, float):
        return f"{key.default:g}"
    return str(key.default).lower() if isinstance(key.default, bool | None) else str(key.default)


if __name__ == "__main__":
    print(tables())
