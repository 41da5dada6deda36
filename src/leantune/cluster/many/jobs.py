"""The table of classifiers to train: each row is a job, and its columns are recipe keys."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leantune.assets.download import resolve_location
from leantune.config import Recipe, load_recipe
from leantune.config.load import ALIASES, MAX_PROBLEMS, OF_ANOTHER_MEANING, typed_keys
from leantune.config.recipe import GROUP, keys
from leantune.data.text.read import LabelUse, open_examples
from leantune.data.text.readers.json_rows import JsonTable
from leantune.data.text.sources import open_table
from leantune.data.text.table import place_of
from leantune.errors import UsageError
from leantune.system.messages import Opaque, nearest, place_name, shown, type_word
from leantune.training.before.dataset import columns_of

NAME = "name"
"""Column with the name of the job, which is not a recipe key."""


@dataclass(frozen=True, slots=True)
class Job:
    """A classifier to train."""

    name: str
    place: str
    """Position of the row for messages: ``jobs.csv:3``."""
    recipe: Recipe

    @property
    def folder(self) -> Path:
        """The folder of its run."""
        return Path(self.recipe.output).expanduser()


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the table: its non-empty cells by column."""

    place: str
    cells: Mapping[str, object]


def read_jobs(table: str, shared: Mapping[str, str], folder: Path) -> list[Job]:
    """Read and check the jobs of a table.

    Args:
        table: a file in any of the supported data formats.
        shared: values by key or alias for rows that do not set them.
        folder: parent folder of runs without ``output``. A run's folder has the name of the job or its number from 1.

    Raises:
        UsageError: if a value is invalid, a file does not exist, or two jobs have the same name or output; the
            message names row and column of each.
        DataError: if the table is invalid, or a data file lacks a column.
    """
    common = typed_keys(shared, "command line")
    if "output" in common:
        raise UsageError(
            "output= cannot be set for all jobs: use --output for the parent folder, or a column 'output' for the "
            "folder of each run"
        )
    rows = _read(table)
    jobs: list[Job] = []
    problems: list[str] = []
    for number, row in enumerate(rows, start=1):
        try:
            jobs.append(_job(row, common, folder, number))
        except UsageError as error:  # noqa: PERF203 - report all problems at once
            problems.append(str(error))
    problems += _repeats(jobs, folder)
    if problems:
        more = len(problems) - MAX_PROBLEMS
        raise UsageError(
            "; ".join(problems[:MAX_PROBLEMS])
            + (f"; and {more} more" if more > 0 else "")
            + "; no job was started"
        )
    _check_sources(jobs)
    return jobs


def _read(table: str) -> list[_Row]:
    """Read the rows of the table.

    Raises:
        UsageError: if a column is not a recipe key, or there are no rows.
    """
    name, rows = open_table(table)
    columns = rows.columns
    if isinstance(rows, JsonTable):  # the objects may have different keys
        objects = [(place_of(number, name), record) for number, record in rows.objects(rows.content)]
        columns = tuple(dict.fromkeys(key for _, record in objects for key in record))
    else:
        objects = [
            (place_of(row, name), {column: batch.cells[column][i] for column in columns})
            for batch in rows.batches(columns, 4096)
            for i, row in enumerate(batch.rows)
        ]
    known = [NAME, *keys(), *ALIASES]
    for column in columns:
        bare = column.removeprefix(f"{GROUP}.")
        if bare not in (*known, GROUP, *OF_ANOTHER_MEANING):
            raise UsageError(
                f"{place_name(table)}: unknown column {shown(column)}, expected 'name' or a recipe key"
                f"{nearest(bare, known)}"
            )
    if not objects:
        raise UsageError(f"{place_name(table)}: no rows, expected one row for each classifier")
    return [
        _Row(
            ":".join(str(part) for part in (place_name(place.file), place.row) if part is not None),
            {column: cell for column, cell in record.items() if not _is_empty(cell)},
        )
        for place, record in objects
    ]


def _is_empty(cell: object) -> bool:
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


def _job(row: _Row, common: Mapping[str, object], folder: Path, number: int) -> Job:
    """Return the job of a row.

    Raises:
        UsageError: if a value is invalid; the message names row and column.
    """
    problems = []
    for column, cell in row.cells.items():
        place = f"{row.place}:{column}"
        if isinstance(cell, Opaque):
            problems.append(f"{place}: {type_word(cell)}, expected a value for this key")
        elif column == NAME:
            if not _is_name(str(cell)):
                problems.append(f"{place}: {shown(cell)} is not a valid folder name")
        else:
            try:
                typed_keys({column: cell}, place)
            except UsageError as error:
                problems.append(str(error))
    if problems:
        raise UsageError("; ".join(problems))
    name = str(row.cells.get(NAME, number))
    own = typed_keys({column: cell for column, cell in row.cells.items() if column != NAME}, row.place)
    values = {"output": str(folder / name), **common, **own}
    if values.get("data") == "-":
        raise UsageError(f"{row.place}:data: standard input (-) cannot be used for many jobs; use a file")
    try:
        return Job(name, row.place, load_recipe(None, values))
    except UsageError as error:
        raise UsageError(f"{row.place}: {error}") from error


def _is_name(word: str) -> bool:
    return word.isprintable() and word.strip() == word and "/" not in word and word not in (".", "..")


def _repeats(jobs: Sequence[Job], folder: Path) -> Iterator[str]:
    """Yield problems of names and outputs that are used twice."""
    names: dict[str, str] = {}
    outputs = {folder.expanduser().resolve(): "--output"}
    for job in jobs:
        if (earlier := names.setdefault(job.name, job.place)) != job.place:
            yield f"{job.place}: the name {shown(job.name)} is already used by {earlier}"
        elif (earlier := outputs.setdefault(job.folder.resolve(), job.place)) != job.place:
            yield f"{job.place}: output {job.recipe.output} is already used by {earlier}: each run needs its own folder"


def _check_sources(jobs: Sequence[Job]) -> None:
    """Check all data files and their columns before the first job starts.

    Raises:
        UsageError: if a file does not exist.
        DataError: if a file is invalid.
    """
    seen = set()
    parts: dict[str, LabelUse] = {
        "data": "required", "validation": "required", "test": "required", "unlabelled": "ignore"
    }  # fmt: skip
    for job in jobs:
        for part, labels in parts.items():
            location, columns = getattr(job.recipe, part), columns_of(job.recipe)
            if location is None or (location, columns, labels) in seen:
                continue
            seen.add((location, columns, labels))
            try:
                open_examples(resolve_location(location), columns, labels=labels, split=_split_of(part))
            except UsageError as error:
                raise type(error)(f"{job.place}:{part}: {error}") from error


def _split_of(part: str) -> str:
    return "train" if part in ("data", "unlabelled") else part
