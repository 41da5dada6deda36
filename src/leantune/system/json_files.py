"""Reads leantune's own JSON files strictly, because they may be damaged or come from an unknown source."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from leantune.errors import CheckpointError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def read_json(path: Path, kind: type[T]) -> T:
    """Read the JSON object in a file as a dataclass, ignoring unknown keys.

    Args:
        path: the file.
        kind: the dataclass.

    Raises:
        CheckpointError: the file is not JSON, or a value is missing or has the wrong type; the message names the first.
        OSError: the file cannot be read.
    """
    return parse_json(path.read_bytes(), kind, str(path))


def parse_json(content: bytes, kind: type[T], place: str) -> T:
    """Parse a JSON object as `read_json` does; ``place`` names the source in messages.

    Raises:
        CheckpointError: as for `read_json`.
    """
    from pydantic import ValidationError

    try:
        value: T = _validator_of(kind).validate_json(content, strict=True)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        inside = ".".join(map(str, first["loc"]))[:100]
        raise CheckpointError(
            f"{place}: damaged: {inside + ': ' if inside else ''}{first['msg']}; restore the original file"
        ) from None
    return value


def from_json(value: object, kind: type[T]) -> T:
    """Convert JSON values made by leantune to a dataclass."""
    made: T = _validator_of(kind).validate_python(value)  # type: ignore[arg-type]
    return made


@lru_cache(maxsize=16)
def _validator_of(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
