"""Fields of dataclasses that users set: name, type, default and help are stated once, beside each other.

The command line makes its flags of them (`leantune.cli.options`), and the documentation its tables.
"""

from __future__ import annotations

import dataclasses
from typing import Any


def option(doc: str, default: Any = dataclasses.MISSING, **extra: Any) -> Any:
    """A field with its help text.

    Args:
        doc: what ``--help`` and the documentation print; says what the default is where that is not its value.
        default: of the field; none: it is required.
        extra: for the command line: ``metavar``; ``least``, the smallest number; ``choices``; ``group``, the heading
            that the flag stands under; ``flag``, its name where it is another than the field's.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, **extra})


def options_of(settings: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a dataclass that were made by `option`, by name."""
    return {each.name: each for each in dataclasses.fields(settings) if "doc" in each.metadata}
