"""Dataclass fields for user settings, which define name, type, default and help text in one place.

The command line (`leantune.cli.options`) derives its flags from them, and the documentation its tables.
"""

from __future__ import annotations

import dataclasses
from typing import Any


def option(doc: str, default: Any = dataclasses.MISSING, **extra: Any) -> Any:
    """Make a dataclass field with a help text.

    Args:
        doc: the text for ``--help`` and the documentation; describes the default if its value does not say enough.
        default: the default of the field; without one, the field is required.
        extra: settings for the command line: ``metavar``; ``least``, the smallest number; ``choices``; ``group``, the
            heading of the flag in the help; ``flag``, the flag's name if it differs from the field's; ``common``,
            whether ``--help`` lists it, and not only ``--help-all``.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, **extra})


def options_of(settings: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields of a dataclass that were made by `option`, by name."""
    return {each.name: each for each in dataclasses.fields(settings) if "doc" in each.metadata}
