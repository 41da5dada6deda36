"""Many classifiers at once: the jobs of a table, in processes of this machine or on a Ray cluster."""

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
"""Called with the row of a job that has ended, and how many have."""


def train_many(jobs: Sequence[Job], settings: Settings, on_result: OnResult) -> list[JobResult]:
    """Train every job; one that fails is a row like any other.

    Args:
        jobs: as `read_jobs` gives them.
        settings: where and how.
        on_result: told as each job ends.

    Returns:
        a row for each job, in their order; it is in ``jobs.csv`` and ``overview.html``, too.

    Raises:
        UsageError: before the first job, for an output that holds a run and may not be touched.
        CheckpointError: for one whose record is damaged.
        Interrupted: after a signal, when the jobs at work have saved.
        DistributedError: if there is no cluster.
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
    """How many processes this machine has the cores for.

    Raises:
        UsageError: if that is fewer than are asked for.
    """
    cores = allowed_threads()
    workers = settings.workers or max(1, cores // settings.cores_per_job)
    if workers * settings.cores_per_job > cores:
        raise UsageError(
            f"--workers {workers} with --cores-per-job {settings.cores_per_job}: there are {cores} cores here; "
            "give fewer, or --cluster"
        )
    return workers


def _task(job: Job, settings: Settings) -> JobTask:
    """What a worker is told of a job.

    Raises:
        UsageError: if its output holds a run that is neither to be gone on with nor to be replaced.
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
            f"{job.place}: output {job.recipe.output} holds a run of another recipe ({'; '.join(differences)}); "
            "choose another output, or add --overwrite to replace such runs"
        )
    raise UsageError(
        f"{job.place}: output {job.recipe.output} already holds a run; choose another output, or add "
        "--resume to continue or --overwrite to replace it"
    )


def _is_done(task: JobTask) -> bool:
    """Whether its run is finished, and to stay."""
    if not (task.job.folder / RECORD).exists():
        return False
    record = read_record(task.job.folder, BegunRecord)
    return (
        record.run_id != task.replaces
        and record.status == "finished"
        and (task.job.folder / "report.html").is_file()
    )


def _in_turn(tasks: Sequence[JobTask]) -> list[JobTask]:
    """The first task of each set of rows and encoder before the second ones: the others find its token table, which two
    that begin together would both make.
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
    """The row of a job that ended, or whose process died too often."""
    if ended.result is not None:
        return replace(ended.result, attempts=ended.attempts)
    assert ended.error is not None
    return result_of(
        ended.task.job,
        "failed",
        error=f"its process died ({type(ended.error).__name__}: {one_line(ended.error)}): "
        "look whether memory was enough; --retries says how often it is tried again",
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
        f"stopped by {signal.Signals(number).name}: {finished} of {len(results)} jobs are finished, those at work have "
        "saved; the same command with --resume goes on",
        signal_number=number,
    )
