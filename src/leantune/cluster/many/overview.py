"""The page FOLDER/overview.html: a self-contained overview of many runs with links to their reports."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import quote

from leantune._version import __version__
from leantune.cluster.many.results import JobResult
from leantune.report.page import script_hash, templates
from leantune.report.wording import duration, percent, significant
from leantune.system.atomic import write_text

OVERVIEW = "overview.html"
SCRIPT = "sort.js"
"""Template of the page's only script, which its Content Security Policy allows by hash."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A job as the page shows it."""

    result: JobResult
    link: str | None
    """Link to the report, relative to the page; None if there is no report."""
    accuracy: float | None
    """Test accuracy, else validation accuracy if that is the metric, as a fraction."""
    validation: str


def write_overview(folder: Path, results: Sequence[JobResult]) -> Path:
    """Write ``folder/overview.html`` atomically.

    Raises:
        ResourceError: if the disk is full or fails.
    """
    path = folder / OVERVIEW
    write_text(path, render(folder, results))
    return path


def render(folder: Path, results: Sequence[JobResult]) -> str:
    """Return the page as HTML."""
    shown = [_shown(folder, result) for result in results]
    accuracies = [each.accuracy for each in shown if each.accuracy is not None]
    return templates().get_template(OVERVIEW).render(
        name=folder.resolve().name,
        version=__version__,
        jobs=shown,
        statuses=Counter(result.status for result in results),
        median=percent(median(accuracies)) if accuracies else None,
        least=percent(min(accuracies, default=None)),
        most=percent(max(accuracies, default=None)),
        num_measured=len(accuracies),
        seconds=duration(sum(result.seconds or 0 for result in results)),
        script_hash=script_hash(SCRIPT),
    )  # fmt: skip


def _shown(folder: Path, result: JobResult) -> Shown:
    run = Path(result.output).expanduser()
    link = os.path.relpath(run / "report.html", folder) if result.status == "finished" else None
    accuracy = result.test_accuracy
    if accuracy is None and result.metric == "accuracy":
        accuracy = result.validation
    is_rate = result.metric != "log_loss"
    return Shown(
        result,
        None if link is None else quote(link),
        accuracy,
        percent(result.validation) if is_rate else significant(result.validation),
    )
