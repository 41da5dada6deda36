"""The published schema of ``record.json``; ``python -m leantune.config.record.schema`` makes it from the classes."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from leantune.config.record import confidence as confidence_record
from leantune.config.record import run as run_record
from leantune.config.record.run import BegunRecord, FinishedRecord, needed

SCHEMA = Path(__file__).with_name("record.schema.json")
NEEDED_WHEN_FINISHED = (
    *needed(FinishedRecord),
    "skipped_steps",
    "checkpoints",
    "selected",
    "metrics",
    "ranks",
)


def record_schema() -> dict[str, Any]:
    """Return the schema of every record that this version writes; readers only check the types."""
    schema = TypeAdapter(BegunRecord).json_schema()
    parts: dict[str, Any] = schema.pop("$defs")
    _say_more(schema, BegunRecord)
    for name, part in parts.items():
        _say_more(part, getattr(run_record, name, None) or getattr(confidence_record, name))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "record.json of a leantune run",
        "description": _sentences(run_record.RunRecord.__doc__),
        "if": {"properties": {"status": {"const": "finished"}}},
        "then": {"required": list(dict.fromkeys(NEEDED_WHEN_FINISHED))},
        "$defs": parts,
    }


def schema_text() -> str:
    """Return the text of the schema file."""
    return json.dumps(record_schema(), indent=1, ensure_ascii=False) + "\n"


def _say_more(part: dict[str, Any], kind: type) -> None:
    """Make a part of the schema strict: forbid other keys, and null where None is omitted; drop titles and defaults."""
    part |= {"description": _sentences(kind.__doc__), "additionalProperties": False}
    for value in part["properties"].values():
        value.pop("title", None)
        value.pop("default", None)
        if value.get("additionalProperties") is True:  # some versions of pydantic do not write it
            del value["additionalProperties"]
    for each in fields(kind) if is_dataclass(kind) else ():
        if each.default is None and not each.metadata:
            value = part["properties"][each.name]
            (only,) = (option for option in value.pop("anyOf") if option != {"type": "null"})
            value |= {**only, **value}


def _sentences(docstring: str | None) -> str:
    return " ".join((docstring or "").split())


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), "utf-8")
