"""Settings for training many jobs; most of them are flags of ``leantune train-many``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leantune.config.option import option


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings for training the jobs of a table."""

    folder: Path
    """Folder for ``jobs.csv``, ``overview.html`` and the runs without their own output."""
    cluster: str | None = option(
        "a Ray cluster: auto, HOST:PORT of its head node, or local; default: processes of this machine",
        None,
        metavar="ADDRESS",
        group="where",
    )
    workers: int | None = option("jobs at a time; default: as many as the cores allow", None, group="where")
    cores_per_job: int = option("cores for each job", 1, group="where")
    retries: int = option("how often a job is resumed after its process died", 2, least=0, group="where")
    resume: bool = option(
        "keep finished runs, resume interrupted ones and train the rest", False, group="earlier runs"
    )
    overwrite: bool = option(
        "replace earlier runs; with --resume only those of another recipe", False, group="earlier runs"
    )
    debug: bool = False
