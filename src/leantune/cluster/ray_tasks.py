"""Tasks on a Ray cluster, each with the cores that it declares."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

from leantune.cluster.connection import Node, import_ray
from leantune.cluster.processes import Ended, Result, Task
from leantune.errors import UsageError

STOP_S = 60.0
"""How long a task may take to end when it is told to."""


def on_cluster(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    cores: int,
    at_once: int | None = None,
    retries: int = 0,
) -> Generator[Ended[Task, Result], None, None]:
    """``function`` of every task, as they end, on the cluster that this process is connected to.

    A task whose process or node dies is done again. Leaving the iterator early interrupts the tasks that are at work
    (as Ctrl-C does) and waits for their end.

    Args:
        function: of one task; a function of a module that every node has.
        tasks: what to do, in this order.
        cores: that each task takes of its node.
        at_once: most tasks that are at work at a time; None: as many as the cluster has cores for.
        retries: how often a task whose process died is done again.
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
    """Refuse tasks that no node has the cores for: they would wait for ever.

    Raises:
        UsageError: naming the largest node.
    """
    largest = max(nodes, key=lambda node: node.cores)
    if largest.cores < cores:
        raise UsageError(
            f"--cores-per-job {cores}: the largest node, {largest.address}, has {largest.cores:g}; give at most that"
        )
