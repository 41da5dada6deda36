"""Training of the jobs of a table, in processes on this machine or on a Ray cluster."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace

from leantune.cluster.connection import connected
from leantune.cluster.many.jobs import Job
from leantune.cluster.many.overview import write_overview
from leantune.cluster.many.results import JobResult, result_of, stopped_result, write_jobs
from leantune.cluster.many.settings import Settings
from leantune.cluster.many.train_job import JobTask, prepare_process, train_job
from leantune.cluster.processes import Ended, in_processes
from leantune.cluster.ray_tasks import check_cores, on_cluster
from leantune.config.record.run import RECORD, BegunRecord, read_record
from leantune.errors import Interrupted, UsageError
from leantune.system.hardware import allowed_threads
from leantune.system.lock import run_lock
from leantune.system.messages import one_line
from leantune.training.resume import recipe_differences

OnResult = Callable[[JobResult, int], None]
"""Callback with the row of a job that has ended and the number of jobs that have ended."""


def train_many(jobs: Sequence[Job], settings: Settings, on_result: OnResult) -> list[JobResult]:
    """Train all jobs. A job that fails does not stop the others.

    Args:
        jobs: jobs from `read_jobs`.
        settings: settings of the command.
        on_result: called when a job ends.

    Returns:
        A row for each job, in the order of jobs. The rows are also in ``jobs.csv`` and ``overview.html``.

    Raises:
        UsageError: before the first job, if an output contains a run that must not be changed.
        CheckpointError: if the record of an earlier run is damaged.
        Interrupted: after a signal, when running jobs have saved a checkpoint.
        DistributedError: if the cluster cannot be reached.
    """
    with run_lock(settings.folder.expanduser()):
        tasks = [_task(job, settings) for job in jobs]
        results = {job.name: result_of(job, "waiting") for job in jobs}
        done = [task.job for task in tasks if _is_done(task)]
        results |= {job.name: result_of(job, "finished") for job in done}
        _write(settings, results)
        names = {job.name for job in done}
        left = _in_turn([task for task in tasks if task.job.name not in names])
        try:
            with closing(_ended(left, settings)) as ends:
                for number, ended in enumerate(ends, start=len(done) + 1):
                    result = results[ended.task.job.name] = _result(ended)
                    _write(settings, results)
                    on_result(result, number)
        except (Interrupted, KeyboardInterrupt) as stopped:
            results |= {
                task.job.name: stopped_result(task.job, replaces=task.replaces)
                for task in left
                if results[task.job.name].status == "waiting"
            }
            _write(settings, results)
            raise _stopped(stopped, list(results.values())) from None
        return list(results.values())


def workers_here(settings: Settings) -> int:
    """Return the number of processes on this machine.

    Raises:
        UsageError: if the requested processes need more cores than there are.
    """
    cores = allowed_threads()
    workers = settings.workers or max(1, cores // settings.cores_per_job)
    if workers * settings.cores_per_job > cores:
        raise UsageError(
            f"--workers {workers} with --cores-per-job {settings.cores_per_job}: this machine has only {cores} cores; "
            "lower one of the two, or use --cluster"
        )
    return workers


def _task(job: Job, settings: Settings) -> JobTask:
    """Return the task of a job.

    Raises:
        UsageError: if its output contains a run that can be neither resumed nor replaced.
    """
    directory = None if settings.cluster is None else os.getcwd()
    task = JobTask(
        job,
        directory=directory,
        threads=None if settings.cluster is None else settings.cores_per_job,
        debug=settings.debug,
    )
    if not (job.folder / RECORD).exists():
        return task
    record = read_record(job.folder, BegunRecord)
    differences = recipe_differences(job.recipe, record)
    if settings.resume and not differences:
        return task
    if settings.overwrite:
        return replace(task, replaces=record.run_id)
    if settings.resume:
        raise UsageError(
            f"{job.place}: output {job.recipe.output} holds a run with another recipe ({'; '.join(differences)}); "
            "choose another output, or add --overwrite to replace such runs"
        )
    raise UsageError(
        f"{job.place}: output {job.recipe.output} already holds a run; choose another output, or add "
        "--resume to continue or --overwrite to replace it"
    )


def _is_done(task: JobTask) -> bool:
    """Return whether the run of a task is finished and is not to be replaced."""
    if not (task.job.folder / RECORD).exists():
        return False
    record = read_record(task.job.folder, BegunRecord)
    return (
        record.run_id != task.replaces
        and record.status == "finished"
        and (task.job.folder / "report.html").is_file()
    )


def _in_turn(tasks: Sequence[JobTask]) -> list[JobTask]:
    """Order tasks so that those with the same rows and encoder do not start together.

    The first of them writes the token table, and the others reuse it.
    """
    seen: Counter[tuple[str, str, int]] = Counter()
    turns = []
    for task in tasks:
        recipe = task.job.recipe
        key = (recipe.data, recipe.model, recipe.max_length)
        turns.append(seen[key])
        seen[key] += 1
    return [task for _, task in sorted(zip(turns, tasks, strict=True), key=lambda each: each[0])]


def _ended(tasks: Sequence[JobTask], settings: Settings) -> Generator[Ended[JobTask, JobResult], None, None]:
    if not tasks:
        return
    if settings.cluster is None:
        yield from in_processes(
            train_job,
            tasks,
            workers=min(workers_here(settings), len(tasks)),
            retries=settings.retries,
            prepare=prepare_process,
            stop_signal=signal.SIGTERM,
        )
        return
    with connected(settings.cluster) as nodes:
        check_cores(nodes, settings.cores_per_job)
        yield from on_cluster(
            train_job,
            tasks,
            cores=settings.cores_per_job,
            at_once=settings.workers,
            retries=settings.retries,
        )


def _result(ended: Ended[JobTask, JobResult]) -> JobResult:
    """Return the row of a job that ended or whose process died too often."""
    if ended.result is not None:
        return replace(ended.result, attempts=ended.attempts)
    assert ended.error is not None
    return result_of(
        ended.task.job,
        "failed",
        error=f"the process died ({type(ended.error).__name__}: {one_line(ended.error)}): "
        "check whether memory was sufficient; --retries sets how often a job is retried",
        attempts=ended.attempts,
    )


def _write(settings: Settings, results: dict[str, JobResult]) -> None:
    folder = settings.folder.expanduser()
    write_jobs(folder, list(results.values()))
    write_overview(folder, list(results.values()))


def _stopped(cause: BaseException, results: Sequence[JobResult]) -> Interrupted:
    number = cause.exit_code - 128 if isinstance(cause, Interrupted) else int(signal.SIGINT)
    finished = sum(result.status == "finished" for result in results)
    return Interrupted(
        f"stopped by {signal.Signals(number).name}: {finished} of {len(results)} jobs are finished, and running jobs "
        "have saved a checkpoint; run the same command with --resume to continue",
        signal_number=number,
    )
