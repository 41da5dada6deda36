"""The published schema of ``record.json`` is that of the classes."""

from __future__ import annotations

from leantune.config.record.schema import SCHEMA, schema_text


def test_the_published_schema_is_that_of_the_classes():
    assert SCHEMA.read_text("utf-8") == schema_text(), "write it again: make schema"
