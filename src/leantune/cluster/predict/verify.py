"""Verification of a bulk prediction: the outputs must contain every input row once and in order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path

from leantune.cluster.predict import ledger
from leantune.cluster.predict.job import BulkOptions, plan_job
from leantune.cluster.predict.ledger import Job, Manifest
from leantune.cluster.predict.parts import Part, opened, update_from_rows
from leantune.cluster.storage import Folder, StoredFile, local_copy
from leantune.data.text.columns import Columns
from leantune.data.text.read import open_texts
from leantune.errors import CheckpointError, LeantuneError, UsageError
from leantune.inference.saved import read_saved
from leantune.system.checksums import describe_file

THREADS = 4


@dataclass(frozen=True, slots=True)
class Verified:
    """Number of verified parts and rows."""

    parts: int
    rows: int


def verify(run: Path, options: BulkOptions) -> Verified:
    """Read all inputs and outputs of a finished job and compare them.

    Every part must match the checksum in its manifest and contain the ids of its input rows in order. The input must
    be unchanged.

    Args:
        run: the classifier of the job.
        options: the options passed to `bulk_predict`.

    Raises:
        UsageError: if the output contains no job, or a job with other inputs, options or another classifier.
        CheckpointError: if parts are missing, damaged or contain other rows; the message names the first one.
    """
    folder = Folder(options.output)
    there = ledger.read_job(folder)
    if there is None:
        raise UsageError(
            f"output {folder.url}: {ledger.JOB} does not exist; expected the output folder of a bulk prediction"
        )
    job, settings, parts = plan_job(read_saved(run), options)
    if difference := there.difference(job):
        raise UsageError(f"output {folder.url}: belongs to another job: {difference}")
    manifests, outputs = folder.sizes(ledger.MANIFESTS), folder.sizes()
    missing = [
        part
        for part in parts
        if ledger.name_of(part.number, ".json") not in manifests
        or ledger.name_of(part.number, settings.format) not in outputs
    ]
    if missing:
        raise CheckpointError(
            f"output {folder.url}: {len(missing)} of {len(parts)} parts are missing, the first is part "
            f"{missing[0].number}; compute them with --resume"
        )
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(partial(_problem, folder, job, settings.columns), parts))
    problems = [each for each in found if isinstance(each, str)]
    if problems:
        raise CheckpointError(f"{problems[0]}; {len(problems)} of {len(parts)} parts are invalid")
    return Verified(len(parts), sum(each for each in found if isinstance(each, int)))


def _problem(folder: Folder, job: Job, columns: Columns, part: Part) -> str | int:
    """Return a description of a part's problem, or its number of rows."""
    name = ledger.manifest_name(part.number)
    try:
        (manifest,) = ledger.read_manifests(folder, [part.number])
        place = folder.address(manifest.output)
        expected = (job.fingerprint, part.number, part.file.url, part.row_group, part.first_row)
        if expected != (manifest.job, manifest.number, manifest.url, manifest.row_group, manifest.first_row):
            return f"{folder.address(name)}: belongs to another job or part"
        output = StoredFile(place, manifest.output_bytes, "")
        with local_copy(output) as path:
            described = describe_file(path)
            if (described["bytes"], described["sha256"]) != (manifest.output_bytes, manifest.output_sha256):
                return f"{place}: the file has changed since it was written"
            return _compare(part, manifest, columns, path, is_submission=bool(job.settings["submission"]))
    except LeantuneError as error:
        return str(error)


def _compare(
    part: Part, manifest: Manifest, columns: Columns, path: Path, *, is_submission: bool
) -> str | int:
    """Compare the rows of a part with the rows of its input."""
    digest, rows = hashlib.sha256(), 0
    id_column = "ID" if is_submission else columns.id or "id"
    with opened(part, columns) as source:
        written = _ids(path, id_column)
        for batch in source.batches():
            update_from_rows(digest, batch)
            for found, expected in zip_longest(_take(written, len(batch.ids)), batch.ids):
                if found != expected:
                    return f"{path}: row {rows + 1} has the id {found!r}, expected {expected!r}"
                rows += 1
    if next(written, None) is not None:
        return f"{path}: contains more rows than the {rows:,} rows of {part.file.url}"
    if rows != manifest.rows or (part.rows is not None and rows != part.rows):
        return f"{path}: {manifest.rows:,} rows according to its manifest, but {rows:,} in {part.file.url}"
    if digest.hexdigest() != manifest.input_sha256:
        return f"{part.file.url}: ids or texts have changed since they were classified"
    return rows


def _ids(path: Path, column: str) -> Iterator[str]:
    """Yield the ids of an output file, by reading the id column as texts."""
    for batch in open_texts(path, str(path), Columns(text=column)).batches():
        yield from batch.texts


def _take(values: Iterator[str], count: int) -> Sequence[str]:
    return [value for _, value in zip(range(count), values, strict=False)]
