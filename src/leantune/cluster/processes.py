"""Tasks in worker processes on this machine. A worker keeps its state between tasks."""

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
    """A task that returned, raised an error, or lost its process too often."""

    task: Task
    result: Result | None
    error: Exception | None
    """Error of the task; `BrokenProcessPool` if its process died."""
    attempts: int


def cores_for(workers: int) -> list[set[int]]:
    """Return the cores of each worker: an equal share of this process's cores.

    If there are more workers than cores, all workers share all cores.
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
    """Call ``function`` with every task in worker processes, and yield the tasks as they end.

    Each worker is a process with its share of the cores. A worker that dies is replaced, and its task is repeated. If
    the iterator is closed early, the processes end after their current tasks. Each worker has its own process group, so
    that Ctrl-C reaches only the caller. If the caller dies, its workers get SIGTERM.

    Args:
        function: function of one task, defined at module level.
        tasks: the tasks, in this order.
        workers: number of processes.
        retries: how often a task is repeated after its process died.
        prepare: called once in every new process, before its first task.
        arguments: arguments of ``prepare``.
        stop_signal: signal sent to the processes when the iterator is closed early, to end tasks sooner.
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
        except BaseException as error:  # raised again in the caller's thread
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
                with contextlib.suppress(ProcessLookupError):  # the process has ended
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
    """Run the thread of one worker: a pool with a single process, which is recreated when the process dies.

    The thread adds the process to ``pids`` before it checks ``stopping``. So either the process gets the stop signal,
    or it gets no task.
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
"""Lock of a worker process, held while it runs a task."""


def _call(function: Callable[[Task], Result], task: Task) -> Result:
    with _at_task:
        return function(task)


def _begin(cores: set[int], prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """Initialise a worker process: set its cores, detach it from Ctrl-C, and end it if its parent dies."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    keep_to_allowed_cpus()  # torch has already been imported and has counted all cores
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _end_with_parent() -> None:
    """End this process when its parent dies. Otherwise it would wait for tasks forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    with _at_task:  # let a running task handle SIGTERM
        os._exit(1)
