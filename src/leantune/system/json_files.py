"""JSON files that leantune wrote and reads again, perhaps from a stranger or after a disk was full."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leantune.errors import CheckpointError

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def read_json(path: Path, kind: type) -> dict[str, Any]:
    """The JSON object in a file, each value of the type that a dataclass says; keys it does not know are left alone.

    Args:
        path: of the file.
        kind: a dataclass.

    Raises:
        CheckpointError: if it is no JSON, or a value is missing or of another type, naming the first such place.
        OSError: if it cannot be read.
    """
    return parse_json(path.read_bytes(), kind, str(path))


def parse_json(content: bytes, kind: type, place: str) -> dict[str, Any]:
    """The JSON object in bytes that are at ``place``; see `read_json`.

    Raises:
        CheckpointError: as `read_json`.
    """
    from pydantic import ValidationError

    try:
        _validator(kind).validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        inside = ".".join(map(str, first["loc"]))[:100]
        raise CheckpointError(
            f"{place}: damaged: {inside + ': ' if inside else ''}{first['msg']}; put back what was written"
        ) from None
    value: dict[str, Any] = json.loads(content)
    return value


@lru_cache(maxsize=16)
def _validator(kind: type) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
