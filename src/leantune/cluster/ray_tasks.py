"""Tasks on a Ray cluster, each with a number of cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

from leantune.cluster.connection import Node, import_ray
from leantune.cluster.processes import Ended, Result, Task
from leantune.errors import UsageError

STOP_S = 60.0
"""Seconds to wait for a cancelled task to end."""


def on_cluster(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    cores: int,
    at_once: int | None = None,
    retries: int = 0,
) -> Generator[Ended[Task, Result], None, None]:
    """Call ``function`` with every task on the connected cluster, and yield the tasks as they end.

    A task is repeated if its process or node dies. If the iterator is closed early, running tasks are interrupted as by
    Ctrl-C and awaited.

    Args:
        function: function of one task, from a module that every node has.
        tasks: the tasks, in this order.
        cores: number of cores for each task.
        at_once: largest number of concurrent tasks; None for as many as the cluster has cores for.
        retries: how often a task is repeated after its process died.
    """
    ray = import_ray()
    remote = ray.remote(function).options(num_cpus=cores, max_retries=0)
    waiting = deque((task, 1) for task in tasks)
    running: dict[Any, tuple[Task, int]] = {}
    try:
        while waiting or running:
            while waiting and (at_once is None or len(running) < at_once):
                task, attempt = waiting.popleft()
                running[remote.remote(task)] = (task, attempt)
            (done,), _ = ray.wait(list(running), num_returns=1)
            task, attempt = running[done]
            try:
                ended: Ended[Task, Result] = Ended(task, ray.get(done), None, attempt)
            except ray.exceptions.RayTaskError as error:  # raised by the function itself
                ended = Ended(task, None, error, attempt)
            except ray.exceptions.RayError as error:
                if attempt <= retries:
                    del running[done]
                    waiting.appendleft((task, attempt + 1))
                    continue
                ended = Ended(task, None, error, attempt)
            del running[done]
            yield ended
    finally:
        for left in running:
            ray.cancel(left)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=STOP_S)


def check_cores(nodes: Sequence[Node], cores: int) -> None:
    """Check that a node has enough cores for a task, which would otherwise wait forever.

    Raises:
        UsageError: if no node has enough cores.
    """
    largest = max(nodes, key=lambda node: node.cores)
    if largest.cores < cores:
        raise UsageError(
            f"--cores-per-job {cores}: the largest node of the cluster, {largest.address}, has {largest.cores:g} "
            f"cores; use at most {largest.cores:g}"
        )
