"""One reader for each format: each turns a source into a `leantune.data.text.table.Table` of named cells."""
