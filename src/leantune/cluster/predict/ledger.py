"""What a large prediction has done, in its output folder: parts, a manifest beside each, and what job they are of.

A part is done when its manifest is there, which is written after it. Both have names that follow from the part's
number, and the same rows give the same bytes: whoever computes a part a second time changes nothing. So no list of the
rows that are done is needed, however many they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import reduce

from leantune.cluster.predict.parts import Part
from leantune.cluster.storage import Folder, StoredFile
from leantune.errors import CheckpointError, UsageError
from leantune.system.atomic import TEMPORARY_PREFIX
from leantune.system.json_files import parse_json

JOB, SUMMARY, MANIFESTS = "_job.json", "_summary.json", "_manifests"
"""Names that begin with ``_``: readers of a folder of Parquet files pass them over."""
READING_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What decides the bytes of every part; parts of two jobs are never mixed."""

    leantune: str
    """Version."""
    classifier: str
    """SHA-256 of the weights that were trained, and of the encoder they belong to."""
    columns: dict[str, str | None]
    settings: dict[str, str | int | bool | None]
    """Format and columns of the output, texts of a batch, precision, and thresholds below which there is no label."""
    inputs: list[StoredFile]
    parts: int

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def difference(self, other: Job) -> str | None:
        """The first thing in which ``other`` is not this job; None: they are the same."""
        for field in fields(self):
            mine, its = getattr(self, field.name), getattr(other, field.name)
            if mine == its:
                continue
            if field.name == "inputs":
                return _difference_of_files(mine, its)
            return f"{field.name} was {mine!r}, and is {its!r} now"
        return None


def _difference_of_files(before: Sequence[StoredFile], now: Sequence[StoredFile]) -> str:
    old, new = ({file.url: file for file in files} for files in (before, now))
    for url, file in old.items():
        if url not in new:
            return f"{url} was among its files, and is not there now"
        if new[url] != file:
            return f"{url} changed ({file.bytes:,} bytes, now {new[url].bytes:,})"
    return f"{next(url for url in new if url not in old)} was not among its files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What one part holds."""

    number: int
    url: str
    """The input file."""
    row_group: int | None
    first_row: int
    rows: int
    truncated_rows: int
    empty_rows: int
    input_sha256: str
    """SHA-256 of the ids and texts that were read, each with its length before it."""
    output: str
    """Name of the part."""
    output_bytes: int
    output_sha256: str
    job: str
    """Fingerprint of the job."""
    node: str
    """Where it was computed."""
    seconds: float


def name_of(number: int, suffix: str) -> str:
    """The name of a part."""
    return f"part-{number:07}{suffix}"


def manifest_name(number: int) -> str:
    """The name of its manifest in the output folder."""
    return f"{MANIFESTS}/{name_of(number, '.json')}"


def write_manifest(folder: Folder, manifest: Manifest) -> None:
    """Say that a part is done."""
    text = json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n"
    folder.write(manifest_name(manifest.number), text.encode("utf-8", "surrogateescape"))


def read_job(folder: Folder) -> Job | None:
    """The job whose parts are in a folder; None if there is none.

    Raises:
        CheckpointError: if its file is damaged.
    """
    if JOB not in folder.sizes():
        return None
    return parse_json(folder.read(JOB), Job, folder.address(JOB))


def begin_job(folder: Folder, job: Job, *, resume: bool) -> None:
    """Make ``folder`` the output of ``job``, or find that it is.

    Raises:
        UsageError: if it holds something else, or the job is there and ``resume`` is not asked for.
    """
    content = (json.dumps(asdict(job), indent=1, ensure_ascii=False) + "\n").encode(
        "utf-8", "surrogateescape"
    )
    there = read_job(folder)
    if there is None:
        if others := [name for name in folder.sizes() if not name.startswith(TEMPORARY_PREFIX)]:
            raise UsageError(
                f"output {folder.url}: holds {others[0]}, which is of no prediction job; choose an empty folder"
            )
        if folder.write_first(JOB, content):
            return
        there = read_job(folder)
        assert there is not None
        resume = False  # another process was faster
    if difference := there.difference(job):
        raise UsageError(
            f"output {folder.url}: holds parts of another job: {difference}; choose another folder"
        )
    if not resume:
        raise UsageError(
            f"output {folder.url}: holds parts of this job; add --resume to compute what is missing, "
            "or choose another folder"
        )


def done_parts(folder: Folder, parts: Sequence[Part], job: Job) -> dict[int, Manifest]:
    """The manifests of the parts that are there, by number; a part that vanished or was cut is not done.

    Raises:
        CheckpointError: if a manifest is damaged or of another job.
    """
    outputs, named = folder.sizes(), folder.sizes(MANIFESTS)
    suffix = str(job.settings["format"])
    numbers = [
        part.number
        for part in parts
        if name_of(part.number, ".json") in named and name_of(part.number, suffix) in outputs
    ]
    manifests = {each.number: each for each in read_manifests(folder, numbers)}
    fingerprint = job.fingerprint
    for manifest in manifests.values():
        if manifest.job != fingerprint:
            place = folder.address(manifest_name(manifest.number))
            raise CheckpointError(f"{place}: of another job; remove the folder and start again")
    return {number: each for number, each in manifests.items() if outputs[each.output] == each.output_bytes}


def read_manifests(folder: Folder, numbers: Iterable[int]) -> list[Manifest]:
    """Those of some parts.

    Raises:
        CheckpointError: if one is damaged.
    """

    def read(number: int) -> Manifest:
        name = manifest_name(number)
        return parse_json(folder.read(name), Manifest, folder.address(name))

    with ThreadPoolExecutor(READING_THREADS) as pool:
        return list(pool.map(read, numbers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What all parts of a job hold."""

    job: str
    parts: int
    rows: int
    truncated_rows: int
    empty_rows: int

    @classmethod
    def of(cls, job: Job, manifests: Iterable[Manifest]) -> Summary:
        """The sums over the manifests."""
        nothing = cls(job=job.fingerprint, parts=0, rows=0, truncated_rows=0, empty_rows=0)
        return reduce(cls.plus, manifests, nothing)

    def plus(self, manifest: Manifest) -> Summary:
        """The same with one part more."""
        return replace(
            self,
            parts=self.parts + 1,
            rows=self.rows + manifest.rows,
            truncated_rows=self.truncated_rows + manifest.truncated_rows,
            empty_rows=self.empty_rows + manifest.empty_rows,
        )


def write_summary(folder: Folder, summary: Summary) -> None:
    """Say that all parts are there, and remove what killed processes left half written."""
    for below in ("", f"{MANIFESTS}/"):
        for name in folder.sizes(below):
            if name.startswith(TEMPORARY_PREFIX):
                folder.remove(below + name)
    folder.write(SUMMARY, (json.dumps(asdict(summary), indent=1) + "\n").encode())
