"""Reads the class names that ``datasets`` stores for columns of numbers (``ClassLabel``)."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from leantune.data.text.readers.strict_json import parse_strict_json
from leantune.errors import DataError
from leantune.system.messages import one_line, shown


def class_names(schema: pa.Schema, name: str) -> dict[str, tuple[str, ...]]:
    """Return the class names of each column from the metadata that ``datasets`` writes into a schema.

    Raises:
        DataError: the metadata exist but cannot be read.
    """
    encoded = (schema.metadata or {}).get(b"huggingface")
    if encoded is None:
        return {}
    try:
        description = parse_strict_json(encoded.decode("utf-8"))
        info = description.get("info") if isinstance(description, dict) else None
        return class_names_of(info.get("features") if isinstance(info, dict) else None)
    except ValueError as error:
        raise DataError(
            f"the description of the columns ('huggingface' in the schema) cannot be read: "
            f"{one_line(error)}; write the file again",
            path=name,
        ) from error


def class_names_of(features: object) -> dict[str, tuple[str, ...]]:
    """Return the class names of each column from ``datasets`` features in their JSON form.

    Raises:
        ValueError: the class names are not a list of different texts.
    """
    if not isinstance(features, Mapping):
        return {}
    found = {column: _class_label(feature) for column, feature in features.items()}
    return {
        column: _names(column, label.get("names")) for column, label in found.items() if label is not None
    }


def _class_label(feature: object) -> Mapping[str, object] | None:
    """Return the description of a ``ClassLabel`` or of a list of them; None for other features."""
    if isinstance(feature, list) and len(feature) == 1:  # as older versions of datasets write a list
        feature = feature[0]
    elif isinstance(feature, Mapping) and feature.get("_type") in ("Sequence", "List", "LargeList"):
        feature = feature.get("feature")
    is_label = isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel"
    return feature if is_label and isinstance(feature, Mapping) else None


def _names(column: object, names: object) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"class names of {shown(column)}: found {shown(names)}, expected a list of texts")
    if len(set(names)) < len(names):
        raise ValueError(f"class names of {shown(column)}: two classes have the same name")
    return tuple(names)
