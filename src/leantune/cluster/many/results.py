"""What became of each of many jobs, and the table of it: ``jobs.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Literal

from leantune.cluster.many.jobs import Job
from leantune.config.record.run import RECORD, RunRecord, read_record
from leantune.system.atomic import write_text

JOBS = "jobs.csv"

Status = Literal["waiting", "finished", "failed", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """A row of the table; what a job has not (yet) is None."""

    name: str
    status: Status
    metric: str
    """What ``validation`` is."""
    validation: float | None = None
    """What the selected checkpoint has, by the recipe's ``metric``."""
    test_accuracy: float | None = None
    """A fraction."""
    trainable_parameters: int | None = None
    """At the end."""
    seconds: float | None = None
    """From the start of the run to its end, over all its processes."""
    attempts: int = 0
    """How often it was begun by this command."""
    output: str
    """Folder of the run."""
    error: str = ""
    """One line; empty where nothing failed."""


def result_of(job: Job, status: Status, *, error: str = "", attempts: int = 0) -> JobResult:
    """The row of a job, with the figures of its run if that is finished."""
    row = JobResult(
        name=job.name,
        status=status,
        metric=job.recipe.selection_metric,
        attempts=attempts,
        output=job.recipe.output,
        error=error,
    )
    if status != "finished":
        return row
    record = read_record(job.folder, RunRecord)
    metrics, parameters = record.metrics, record.parameters
    validation, test = (metrics.validation, metrics.test) if metrics else (None, None)
    metric = record.selected.metric if record.selected else row.metric  # rows may have several labels
    return replace(
        row,
        metric=metric,
        validation=None if validation is None else getattr(validation, metric),
        test_accuracy=None if test is None else test.accuracy,
        trainable_parameters=None if parameters is None else parameters.final,
        seconds=(record.timings or {}).get("total_s"),
    )


def stopped_result(job: Job, *, replaces: str | None) -> JobResult:
    """The row of a job that was not at its end when the command was stopped.

    Args:
        job: of the table.
        replaces: ``run_id`` of an earlier run in its folder, which is not its own.
    """
    if not (job.folder / RECORD).is_file():
        return result_of(job, "waiting")
    record = read_record(job.folder, RunRecord)
    if record.run_id == replaces:
        return result_of(job, "waiting")
    return result_of(job, "finished" if record.status == "finished" else "interrupted")


def write_jobs(folder: Path, results: Sequence[JobResult]) -> Path:
    """Replace ``folder/jobs.csv``, whole or not at all.

    Raises:
        ResourceError: if the disk is full or fails.
    """
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(field.name for field in fields(JobResult))
    for result in results:
        writer.writerow("" if value is None else _rounded(value) for value in astuple(result))
    path = folder / JOBS
    write_text(path, content.getvalue())
    return path


def _rounded(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
