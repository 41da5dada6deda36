"""The results of many jobs and their table ``jobs.csv``."""

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
    """A row of the table. Values that do not exist (yet) are None."""

    name: str
    status: Status
    metric: str
    """Metric in ``validation``."""
    validation: float | None = None
    """Validation metric of the selected checkpoint."""
    test_accuracy: float | None = None
    """Test accuracy as a fraction."""
    trainable_parameters: int | None = None
    """Number of trainable parameters at the end of training."""
    seconds: float | None = None
    """Duration of the run in seconds, summed over its processes."""
    attempts: int = 0
    """Number of attempts by this command."""
    output: str
    """Folder of the run."""
    error: str = ""
    """Error message of one line; empty if the job did not fail."""


def result_of(job: Job, status: Status, *, error: str = "", attempts: int = 0) -> JobResult:
    """Return the row of a job, with the results of its run if it is finished."""
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
    """Return the row of a job that had not ended when the command was stopped.

    Args:
        job: the job.
        replaces: ``run_id`` of an earlier run in its folder that the job was to replace.
    """
    if not (job.folder / RECORD).is_file():
        return result_of(job, "waiting")
    record = read_record(job.folder, RunRecord)
    if record.run_id == replaces:
        return result_of(job, "waiting")
    return result_of(job, "finished" if record.status == "finished" else "interrupted")


def write_jobs(folder: Path, results: Sequence[JobResult]) -> Path:
    """Replace ``folder/jobs.csv`` atomically.

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
