"""Tasks in processes of this machine, each of which keeps its state from one task to the next."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from leantune.system.hardware import allowed_threads, keep_to_allowed_cpus

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Ended(Generic[Task, Result]):
    """A task that returned, raised, or took its process with it as often as it may."""

    task: Task
    result: Result | None
    error: Exception | None
    """`BrokenProcessPool`: its process died."""
    attempts: int


def cores_for(workers: int) -> list[set[int]]:
    """The cores of each of ``workers`` processes: an equal share of those that this process may use.

    More processes than cores share them all.
    """
    allowed = (
        sorted(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else list(range(os.cpu_count() or 1))
    )
    each = min(len(allowed), allowed_threads()) // workers
    return [set(allowed[i * each : (i + 1) * each]) if each else set(allowed) for i in range(workers)]


def in_processes(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    workers: int,
    retries: int = 0,
    prepare: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
    stop_signal: signal.Signals | None = None,
) -> Generator[Ended[Task, Result], None, None]:
    """``function`` of every task, as they end.

    Each worker is a process of its own with its share of the cores; one that dies is replaced, and its task is done
    again. Leaving the iterator early ends the processes after the tasks that they are at. A worker is in a process
    group of its own, so that Ctrl-C reaches the caller alone; if the caller dies, it gets SIGTERM.

    Args:
        function: of one task; a function of a module.
        tasks: what to do, in this order.
        workers: processes.
        retries: how often a task whose process died is done again.
        prepare: called once in every new process, before its first task.
        arguments: of ``prepare``.
        stop_signal: what the processes get when the iterator is left early, so that tasks may end sooner.
    """
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    ended: queue.SimpleQueue[Ended[Task, Result] | BaseException] = queue.SimpleQueue()
    stopping = threading.Event()
    pids: set[int] = set()

    def work(cores: set[int]) -> None:
        try:
            _work(function, waiting, ended.put, stopping, retries, (cores, prepare, arguments), pids)
        except BaseException as error:  # raised again by whoever waits for the task
            ended.put(error)

    threads = [threading.Thread(target=work, args=(cores,), daemon=True) for cores in cores_for(workers)]
    for thread in threads:
        thread.start()
    is_early = True
    try:
        for _ in tasks:
            one = ended.get()
            if isinstance(one, BaseException):
                raise one
            yield one
        is_early = False
    finally:
        stopping.set()
        if stop_signal is not None and is_early:
            for pid in list(pids):
                with contextlib.suppress(ProcessLookupError):  # it has ended
                    os.kill(pid, stop_signal)
        for thread in threads:
            thread.join()


def _work(
    function: Callable[[Task], Result],
    waiting: queue.SimpleQueue[Task],
    put: Callable[[Ended[Task, Result]], None],
    stopping: threading.Event,
    retries: int,
    settings: tuple[set[int], Callable[..., None] | None, tuple[Any, ...]],
    pids: set[int],
) -> None:
    """What one worker's thread does: a pool of a single process, made again when the process dies.

    The process is in ``pids`` before ``stopping`` is looked at, so that whoever sets that finds it there, or it gets
    no task.
    """
    pool: ProcessPoolExecutor | None = None
    pid = 0
    try:
        while not stopping.is_set():
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                return
            for attempt in range(1, retries + 2):
                if pool is None:
                    context = multiprocessing.get_context("spawn")
                    pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=settings)
                try:
                    if not pid:
                        pids.add(pid := pool.submit(os.getpid).result())
                        if stopping.is_set():
                            return
                    put(Ended(task, pool.submit(_call, function, task).result(), None, attempt))
                    break
                except BrokenProcessPool as error:
                    pool.shutdown()
                    pids.discard(pid)
                    pool, pid = None, 0
                    if attempt > retries or stopping.is_set():
                        put(Ended(task, None, error, attempt))
                        break
                except Exception as error:
                    put(Ended(task, None, error, attempt))
                    break
    finally:
        pids.discard(pid)
        if pool is not None:
            pool.shutdown()


_at_task = threading.Lock()
"""In a worker: held while it is at a task."""


def _call(function: Callable[[Task], Result], task: Task) -> Result:
    with _at_task:
        return function(task)


def _begin(cores: set[int], prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """Keep a new process to its cores, out of reach of Ctrl-C, and not alive for longer than who started it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    keep_to_allowed_cpus()  # torch is there already, and has counted the cores
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _end_with_parent() -> None:
    """A pool whose owner was killed would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    with _at_task:  # which may have its own way to end
        os._exit(1)
