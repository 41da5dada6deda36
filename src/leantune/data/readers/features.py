"""The class names that ``datasets`` keeps for columns of numbers (``ClassLabel``)."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from leantune.data.readers.strict_json import parse_json
from leantune.errors import DataError
from leantune.system.messages import one_line, shown


def class_names(schema: pa.Schema, name: str) -> dict[str, tuple[str, ...]]:
    """Column -> class names, from what ``datasets`` wrote into a schema.

    Raises:
        DataError: the description is there but cannot be read.
    """
    encoded = (schema.metadata or {}).get(b"huggingface")
    if encoded is None:
        return {}
    try:
        description = parse_json(encoded.decode("utf-8"))
        info = description.get("info") if isinstance(description, dict) else None
        return class_names_of(info.get("features") if isinstance(info, dict) else None)
    except ValueError as error:
        raise DataError(
            f"the description of the columns ('huggingface' in the schema) cannot be read: "
            f"{one_line(error)}; write the file again",
            path=name,
        ) from error


def class_names_of(features: object) -> dict[str, tuple[str, ...]]:
    """Column -> class names, from ``datasets`` features in their JSON form.

    Raises:
        ValueError: class names that are not a list of different texts.
    """
    if not isinstance(features, Mapping):
        return {}
    return {
        column: _names(column, feature.get("names"))
        for column, feature in features.items()
        if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel"
    }


def _names(column: object, names: object) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"class names of {shown(column)}: found {shown(names)}, expected a list of texts")
    if len(set(names)) < len(names):
        raise ValueError(f"class names of {shown(column)}: two classes have one name")
    return tuple(names)
