"""A table of classifiers to train: each row is a job, its columns are keys of a recipe."""

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
"""The column that is no key of a recipe."""


@dataclass(frozen=True, slots=True)
class Job:
    """A classifier to train."""

    name: str
    place: str
    """The row, as messages call it: ``jobs.csv:3``."""
    recipe: Recipe

    @property
    def folder(self) -> Path:
        """The folder of its run."""
        return Path(self.recipe.output).expanduser()


@dataclass(frozen=True, slots=True)
class _Row:
    """What a row gives: cells that are not empty, by column."""

    place: str
    cells: Mapping[str, object]


def read_jobs(table: str, shared: Mapping[str, str], folder: Path) -> list[Job]:
    """The jobs of a table, all of which can be.

    Args:
        table: a file in any format that rows of texts are read from.
        shared: by key or alias: what holds for every row that does not say otherwise.
        folder: where the runs are that have no ``output``: under their name, or their number from 1.

    Raises:
        UsageError: naming the row and the column of each value that cannot be, of each file that is not there, and of
            each second job with one name or one output.
        DataError: if the table is not what it must be, or a file of rows lacks a column.
    """
    common = typed_keys(shared, "command line")
    if "output" in common:
        raise UsageError(
            "output= is the folder of one run; --output is that of all, and a column 'output' names each"
        )
    rows = _read(table)
    jobs: list[Job] = []
    problems: list[str] = []
    for number, row in enumerate(rows, start=1):
        try:
            jobs.append(_job(row, common, folder, number))
        except UsageError as error:  # noqa: PERF203 - all that is wrong is said at once
            problems.append(str(error))
    problems += _repeats(jobs, folder)
    if problems:
        more = len(problems) - MAX_PROBLEMS
        raise UsageError(
            "; ".join(problems[:MAX_PROBLEMS])
            + (f"; and {more} more" if more > 0 else "")
            + "; nothing is trained"
        )
    _check_sources(jobs)
    return jobs


def _read(table: str) -> list[_Row]:
    """The rows of the table, whose columns are keys.

    Raises:
        UsageError: for a column that is none.
    """
    name, rows = open_table(table)
    columns = rows.columns
    if isinstance(rows, JsonTable):  # whose objects need not have the same keys
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
                f"{place_name(table)}: unknown column {shown(column)}, expected 'name' and keys of a recipe"
                f"{nearest(bare, known)}"
            )
    if not objects:
        raise UsageError(f"{place_name(table)}: no rows; expected one for each classifier")
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
    """The job of a row.

    Raises:
        UsageError: naming the row, and the column where it is one cell that cannot be.
    """
    problems = []
    for column, cell in row.cells.items():
        place = f"{row.place}:{column}"
        if isinstance(cell, Opaque):
            problems.append(f"{place}: {type_word(cell)}, expected a value of this key")
        elif column == NAME:
            if not _is_name(str(cell)):
                problems.append(f"{place}: {shown(cell)} cannot be the name of a folder")
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
        raise UsageError(f"{row.place}:data: standard input is for one run; give a file")
    try:
        return Job(name, row.place, load_recipe(None, values))
    except UsageError as error:
        raise UsageError(f"{row.place}: {error}") from error


def _is_name(word: str) -> bool:
    return word.isprintable() and word.strip() == word and "/" not in word and word not in (".", "..")


def _repeats(jobs: Sequence[Job], folder: Path) -> Iterator[str]:
    """What is wrong with names and outputs that two jobs have, or that are the folder of all."""
    names: dict[str, str] = {}
    outputs = {folder.expanduser().resolve(): "--output"}
    for job in jobs:
        if (earlier := names.setdefault(job.name, job.place)) != job.place:
            yield f"{job.place}: the name {shown(job.name)} is also that of {earlier}"
        elif (earlier := outputs.setdefault(job.folder.resolve(), job.place)) != job.place:
            yield f"{job.place}: output {job.recipe.output} is also that of {earlier}: each run needs its own"


def _check_sources(jobs: Sequence[Job]) -> None:
    """Look for every file of rows, and for its columns: not after hours of other jobs.

    Raises:
        UsageError: for one that is not there.
        DataError: for one that is not what it must be.
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
