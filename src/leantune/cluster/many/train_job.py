"""One job, in a process that trains several one after the other: what was begun is gone on with."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console

from leantune.cluster.many.jobs import Job
from leantune.cluster.many.results import JobResult, result_of
from leantune.config import Recipe
from leantune.config.record.run import RECORD, BegunRecord, read_record
from leantune.errors import Interrupted, LeantuneError, UsageError
from leantune.report import write_model_card, write_report
from leantune.system.console import console
from leantune.system.memory import keep_freed_memory, use_huge_pages
from leantune.system.messages import one_line
from leantune.training.checkpoint import find_problem, list_checkpoints
from leantune.training.run import run_training

MAX_ERROR_CHARS = 1000


@dataclass(frozen=True, slots=True)
class JobTask:
    """A job and how to do it."""

    job: Job
    replaces: str | None = None
    """``run_id`` of the run in its folder that gives way to it. Any other run there is gone on with."""
    directory: str | None = None
    """Where relative paths are from; None: where the process is."""
    threads: int | None = None
    """To compute with; None: as the process is."""
    debug: bool = False
    """Whether the traceback of an error is printed."""


def prepare_process() -> None:
    """What a process that trains needs once."""
    use_huge_pages()
    keep_freed_memory()


def train_job(task: JobTask) -> JobResult:
    """Train one job, or go on with it; what goes wrong is in its row."""
    job = task.job
    try:
        with _stoppable():
            _place(task)
            quiet = console(stderr=True, quiet=True)
            train_or_go_on(job.recipe, replaces=task.replaces, console=quiet)
    except (Interrupted, KeyboardInterrupt) as error:
        return result_of(job, "interrupted", error=one_line(error, MAX_ERROR_CHARS))
    except Exception as error:  # the other jobs go on, and the table has the line
        if task.debug:
            traceback.print_exc()
        kind = "" if isinstance(error, LeantuneError) else f"{type(error).__name__}: "
        return result_of(job, "failed", error=f"{kind}{one_line(error, MAX_ERROR_CHARS)}")
    return result_of(job, "finished")


def train_or_go_on(recipe: Recipe, *, replaces: str | None, console: Console) -> Path:
    """Bring the run of a recipe to its end, report and model card included.

    Args:
        recipe: of the run.
        replaces: ``run_id`` of an earlier run in its folder that is to be replaced. Any other that is there is of this
            recipe: one that is finished stays, one with a valid checkpoint is resumed.
        console: where to draw.

    Raises:
        LeantuneError: of the kind that says what is wrong.
    """
    folder = Path(recipe.output).expanduser()
    status = _status_of(folder, replaces)
    if status != "finished":
        run_training(
            recipe,
            console=console,
            overwrite=status == "replaced",
            resume=status == "resumable",
        )
    if status != "finished" or not (folder / "report.html").is_file():
        write_model_card(folder)
        write_report(folder)
    return folder


def _status_of(folder: Path, replaces: str | None) -> str:
    if not (folder / RECORD).exists():
        return "absent"
    record = read_record(folder, BegunRecord)
    if record.run_id == replaces:
        return "replaced"
    if record.status == "finished":
        return "finished"
    is_resumable = any(find_problem(each) is None for each in list_checkpoints(folder).values())
    return "resumable" if is_resumable else "replaced"


def _place(task: JobTask) -> None:
    """Go to where relative paths are from, with the threads that the task may have.

    Raises:
        UsageError: if this machine does not see that folder.
    """
    if task.directory is not None:
        try:
            os.chdir(task.directory)
        except OSError as error:
            raise UsageError(
                f"{task.directory}: {error.strerror} on {os.uname().nodename}; with --cluster the command must be "
                "started in a folder that every node sees"
            ) from error
    if task.threads is not None:
        torch.set_num_threads(task.threads)


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends the job as an error does; while it trains, training saves first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop) or signal.SIG_DFL
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Interrupted("stopped by SIGTERM", signal_number=number)
