"""The commands, a file each: its help, its examples, its options and its function.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

GROUPS: Mapping[str, Sequence[str]] = {
    "train": ("assets", "plan", "train", "train-many", "search"),
    "use": ("predict", "evaluate", "serve", "export"),
    "ask": ("frontier", "learning-curve", "audit", "abstain", "passport", "explain"),
    "publish": ("report", "push"),
}
"""The names of all commands, in the order in which people need them."""


class Command(Protocol):
    """What the file of a command holds."""

    HELP: str
    EXAMPLES: str

    def add_arguments(self, parser: Any) -> None:
        """Add the options of the command to its parser."""

    def run(self, options: argparse.Namespace) -> None:
        """Run the command."""


COMMANDS: Mapping[str, Command] = {
    name: cast(Command, importlib.import_module(f"leantune.cli.commands.{name.replace('-', '_')}"))
    for names in GROUPS.values()
    for name in names
}
