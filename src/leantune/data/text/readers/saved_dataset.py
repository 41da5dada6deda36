"""Reads folders written by ``datasets.save_to_disk`` without importing ``datasets``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from leantune.data.text.readers.arrow import ArrowTable, BatchOpener, open_arrow
from leantune.data.text.readers.content import Content, open_content, reading
from leantune.data.text.readers.sniff import sniff
from leantune.data.text.readers.strict_json import parse_strict_json
from leantune.errors import DataError, UsageError
from leantune.system.file_names import is_plain_name
from leantune.system.messages import listed, place_name, shown


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder contains the metadata of a saved Dataset or DatasetDict."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def open_saved_dataset(folder: Path, split: str) -> tuple[ArrowTable, tuple[Content, ...]]:
    """Open the rows of a saved dataset, and return them with the files that contain them.

    Args:
        folder: the folder of a Dataset, or of a DatasetDict that has the split.
        split: the split of a DatasetDict; ignored for a Dataset.

    Raises:
        DataError: the folder is not a saved dataset, or is damaged.
        UsageError: the DatasetDict does not have this split.
    """
    name = place_name(str(folder))
    if (folder / "dataset_dict.json").is_file():
        folder = _split_folder(folder, split)
    if not (folder / "state.json").is_file():
        raise DataError(
            "a directory without state.json, expected a folder written by save_to_disk: save the dataset again",
            path=name,
        )
    contents = tuple(open_content(str(folder / file)) for file in _data_files(folder))
    tables = [_open_data_file(content) for content in contents]
    if not tables or any(table.columns != tables[0].columns for table in tables):
        raise DataError("no data files, or files of different columns: save it again", path=name)
    opener = partial(_chain, [table.open_batches for table in tables])
    return ArrowTable(name, tables[0].columns, tables[0].class_names, opener), contents


def _open_data_file(content: Content) -> ArrowTable:
    kind = sniff(content)
    if not kind.startswith("arrow"):
        raise DataError(f"{kind} content, expected Arrow: save the dataset again", path=content.name)
    return open_arrow(content, kind)


def _chain(openers: list[BatchOpener], wanted: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    for open_batches in openers:
        yield from open_batches(wanted, batch_rows)


def _split_folder(folder: Path, split: str) -> Path:
    splits = [str(name) for name in _member_list(folder / "dataset_dict.json", "splits")]
    if split not in splits:
        raise UsageError(
            f"{place_name(str(folder))}: no split {shown(split)}, it has {listed(splits)}: give one of "
            f"their folders, such as {place_name(str(folder / splits[0])) if splits else 'another'}"
        )
    return folder / _plain(split, folder)


def _data_files(folder: Path) -> list[str]:
    state = folder / "state.json"
    entries = _member_list(state, "_data_files")
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    return [_plain(name, state) for name in names]


def _plain(name: object, where: Path) -> str:
    """Return the name after checking that it does not lead out of the folder."""
    if not isinstance(name, str) or not is_plain_name(name):
        raise DataError(
            f"{shown(name)} is not the name of a file in this folder: save the dataset again",
            path=place_name(str(where)),
        )
    return name


def _member_list(path: Path, key: str) -> list[object]:
    name = place_name(str(path))
    with reading(name):
        encoded = path.read_bytes()
    try:
        value = parse_strict_json(encoded.decode("utf-8"))
    except ValueError as error:
        raise DataError(f"{error}: save the dataset again", path=name) from error
    members = value.get(key) if isinstance(value, dict) else None
    if not isinstance(members, list):
        raise DataError(f"no list named {key!r}: save the dataset again", path=name)
    return members
