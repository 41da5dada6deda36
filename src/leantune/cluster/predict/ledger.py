"""The state of a bulk prediction in its output folder: the job, the parts, and a manifest for each part.

A part is done when its manifest exists, which is written after the part. Both names follow from the part's number, and
the same rows give the same bytes, so that computing a part twice changes nothing. No list of finished rows is needed.
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
"""Names in the output folder. Readers of a folder of Parquet files skip names that begin with ``_``."""
READING_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that determines the bytes of the parts. Parts of different jobs are never mixed."""

    leantune: str
    """Version of leantune."""
    classifier: str
    """SHA-256 of the trained weights and of their encoder."""
    columns: dict[str, str | None]
    settings: dict[str, str | int | bool | None]
    """Format and columns of the output, batch size, precision, and abstention thresholds."""
    inputs: list[StoredFile]
    parts: int

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def difference(self, other: Job) -> str | None:
        """Describe the first difference between this job and ``other``; None if they are equal."""
        for field in fields(self):
            mine, its = getattr(self, field.name), getattr(other, field.name)
            if mine == its:
                continue
            if field.name == "inputs":
                return _difference_of_files(mine, its)
            return f"{field.name} was {mine!r}, and is now {its!r}"
        return None


def _difference_of_files(before: Sequence[StoredFile], now: Sequence[StoredFile]) -> str:
    old, new = ({file.url: file for file in files} for files in (before, now))
    for url, file in old.items():
        if url not in new:
            return f"{url} was one of its files and no longer exists"
        if new[url] != file:
            return f"{url} changed ({file.bytes:,} bytes, now {new[url].bytes:,})"
    return f"{next(url for url in new if url not in old)} was not one of its files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The manifest of one part."""

    number: int
    url: str
    """The input file."""
    row_group: int | None
    first_row: int
    rows: int
    truncated_rows: int
    empty_rows: int
    input_sha256: str
    """SHA-256 of the ids and texts read, each preceded by its length."""
    output: str
    """File name of the part."""
    output_bytes: int
    output_sha256: str
    job: str
    """Fingerprint of the job."""
    node: str
    """Host name of the node that computed the part."""
    seconds: float


def name_of(number: int, suffix: str) -> str:
    """Return the file name of a part."""
    return f"part-{number:07}{suffix}"


def manifest_name(number: int) -> str:
    """Return the name of a part's manifest in the output folder."""
    return f"{MANIFESTS}/{name_of(number, '.json')}"


def write_manifest(folder: Folder, manifest: Manifest) -> None:
    """Write the manifest of a part, which marks it as done."""
    text = json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n"
    folder.write(manifest_name(manifest.number), text.encode("utf-8", "surrogateescape"))


def read_job(folder: Folder) -> Job | None:
    """Read the job of an output folder; None if there is none.

    Raises:
        CheckpointError: if the job file is damaged.
    """
    if JOB not in folder.sizes():
        return None
    return parse_json(folder.read(JOB), Job, folder.address(JOB))


def begin_job(folder: Folder, job: Job, *, resume: bool) -> None:
    """Write the job file into a new output folder, or check that the existing one belongs to ``job``.

    Raises:
        UsageError: if the folder belongs to something else, or contains this job and ``resume`` is False.
    """
    content = (json.dumps(asdict(job), indent=1, ensure_ascii=False) + "\n").encode(
        "utf-8", "surrogateescape"
    )
    there = read_job(folder)
    if there is None:
        if others := [name for name in folder.sizes() if not name.startswith(TEMPORARY_PREFIX)]:
            raise UsageError(
                f"output {folder.url}: contains {others[0]}, which is not part of a prediction job; choose an empty "
                "folder"
            )
        if folder.write_first(JOB, content):
            return
        there = read_job(folder)
        assert there is not None
        resume = False  # another process was faster
    if difference := there.difference(job):
        raise UsageError(
            f"output {folder.url}: contains parts of another job: {difference}; choose another folder"
        )
    if not resume:
        raise UsageError(
            f"output {folder.url}: already contains parts of this job; add --resume to compute the missing parts, "
            "or choose another folder"
        )


def done_parts(folder: Folder, parts: Sequence[Part], job: Job) -> dict[int, Manifest]:
    """Return the manifests of finished parts by number. A part that is missing or truncated is not finished.

    Raises:
        CheckpointError: if a manifest is damaged or belongs to another job.
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
            raise CheckpointError(f"{place}: belongs to another job; remove the folder and start again")
    return {number: each for number, each in manifests.items() if outputs[each.output] == each.output_bytes}


def read_manifests(folder: Folder, numbers: Iterable[int]) -> list[Manifest]:
    """Read the manifests of some parts.

    Raises:
        CheckpointError: if a manifest is damaged.
    """

    def read(number: int) -> Manifest:
        name = manifest_name(number)
        return parse_json(folder.read(name), Manifest, folder.address(name))

    with ThreadPoolExecutor(READING_THREADS) as pool:
        return list(pool.map(read, numbers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Totals over the finished parts of a job."""

    job: str
    parts: int
    rows: int
    truncated_rows: int
    empty_rows: int

    @classmethod
    def of(cls, job: Job, manifests: Iterable[Manifest]) -> Summary:
        """Return the totals over manifests."""
        nothing = cls(job=job.fingerprint, parts=0, rows=0, truncated_rows=0, empty_rows=0)
        return reduce(cls.plus, manifests, nothing)

    def plus(self, manifest: Manifest) -> Summary:
        """Return the totals with one more part."""
        return replace(
            self,
            parts=self.parts + 1,
            rows=self.rows + manifest.rows,
            truncated_rows=self.truncated_rows + manifest.truncated_rows,
            empty_rows=self.empty_rows + manifest.empty_rows,
        )


def write_summary(folder: Folder, summary: Summary) -> None:
    """Write the summary of a complete job, and remove temporary files of killed processes."""
    for below in ("", f"{MANIFESTS}/"):
        for name in folder.sizes(below):
            if name.startswith(TEMPORARY_PREFIX):
                folder.remove(below + name)
    folder.write(SUMMARY, (json.dumps(asdict(summary), indent=1) + "\n").encode())
