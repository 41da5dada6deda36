"""Readers for each format, which turn a source into a `leantune.data.text.table.Table`."""
