"""Training of one job in a worker process. An interrupted run is resumed."""

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
    """A job with its settings for a worker."""

    job: Job
    replaces: str | None = None
    """``run_id`` of a run in the job's folder to replace. Any other run there is resumed."""
    directory: str | None = None
    """Base folder of relative paths; None for the current folder of the process."""
    threads: int | None = None
    """Number of threads; None for the number set in the process."""
    debug: bool = False
    """Whether to print the traceback of an error."""


def prepare_process() -> None:
    """Set up memory allocation in a new worker process."""
    use_huge_pages()
    keep_freed_memory()


def train_job(task: JobTask) -> JobResult:
    """Train or resume one job. Errors are reported in its row."""
    job = task.job
    try:
        with _stoppable():
            _place(task)
            quiet = console(stderr=True, quiet=True)
            train_or_go_on(job.recipe, replaces=task.replaces, console=quiet)
    except (Interrupted, KeyboardInterrupt) as error:
        return result_of(job, "interrupted", error=one_line(error, MAX_ERROR_CHARS))
    except Exception as error:  # the other jobs continue, and the table contains the message
        if task.debug:
            traceback.print_exc()
        kind = "" if isinstance(error, LeantuneError) else f"{type(error).__name__}: "
        return result_of(job, "failed", error=f"{kind}{one_line(error, MAX_ERROR_CHARS)}")
    return result_of(job, "finished")


def train_or_go_on(recipe: Recipe, *, replaces: str | None, console: Console) -> Path:
    """Train the run of a recipe to the end, and write its report and model card.

    Args:
        recipe: the recipe of the run.
        replaces: ``run_id`` of an earlier run in its folder to replace. Any other run in the folder must have this
            recipe: it is kept if it is finished, and resumed if it has a valid checkpoint.
        console: console for progress.

    Raises:
        LeantuneError: see `leantune.training.run.run_training`.
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
    """Change to the base folder of relative paths, and set the number of threads.

    Raises:
        UsageError: if the folder does not exist on this machine.
    """
    if task.directory is not None:
        try:
            os.chdir(task.directory)
        except OSError as error:
            raise UsageError(
                f"{task.directory}: {error.strerror} on {os.uname().nodename}; with --cluster, start the command in a "
                "folder that all nodes share"
            ) from error
    if task.threads is not None:
        torch.set_num_threads(task.threads)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn SIGTERM into an error that ends the job. During training, the run saves a checkpoint first."""
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
