"""The pool of workers, which take batches from the queue and are replaced when they die.

If a worker dies, the requests of its batch are retried once, each in its own batch. A request is refused when a second
worker dies while computing it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from leantune.serving.batching import MOST_AHEAD, Batch, BatchQueue, Waiting, deliver, refuse
from leantune.serving.description import Description
from leantune.serving.refusals import Kind, RefusalError
from leantune.serving.worker import (
    Opened,
    RefusedByWorkerError,
    Started,
    Worker,
    WorkerDiedError,
    WorkerSettings,
)

log = logging.getLogger("leantune.serve")

BATCH_SECONDS = 120
"""Seconds after which a batch is abandoned and its worker replaced."""
PAUSE_SECONDS = 1.0
"""Seconds between a failed start of a worker and the next attempt."""
MOST_TRIES = 2
"""Number of failed attempts after which a request is refused."""


class WorkerPool:
    """A pool of workers with the same classifiers.

    Args:
        settings: settings of each worker.
        count: number of workers.
        queue: queue from which the workers take batches.
        on_batch: called with each computed batch and its duration in seconds.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        count: int,
        queue: BatchQueue,
        on_batch: Callable[[Batch, float], None] = lambda batch, seconds: None,
    ) -> None:
        self.queue, self.on_batch = queue, on_batch
        self._opened: dict[int, Opened] = {}
        self._changes = threading.Lock()
        """Lock held while classifiers are opened or closed, and while a new worker receives them."""
        self._lanes = [_Lane(settings, self) for _ in range(count)]

    @property
    def is_ready(self) -> bool:
        """Whether at least one worker is ready."""
        return any(lane.is_ready for lane in self._lanes)

    @property
    def num_restarts(self) -> int:
        """Number of times that a worker was replaced."""
        return sum(lane.num_restarts for lane in self._lanes)

    @property
    def pids(self) -> list[int]:
        """Process IDs of the workers."""
        return [lane.worker.pid for lane in self._lanes]

    def open(self, number: int, source: str, *, shares: bool) -> Description:
        """Open a classifier in all workers; see `Engine.open`.

        Raises:
            RefusalError: if it cannot be opened.
        """
        with self._changes:
            try:
                first, *others = self._lanes
                opened = first.worker.open(number, source, shares=shares)
                for lane in others:
                    lane.worker.restore({number: opened.restores})
            except RefusedByWorkerError as error:
                raise RefusalError(Kind.BACKEND, str(error)) from error
            except WorkerDiedError as error:
                raise RefusalError(
                    Kind.BACKEND, f"a worker died while it opened {source}: {error}"
                ) from error
            self._opened[number] = opened
            return opened.description

    def close(self, number: int) -> None:
        """Remove a classifier that no request uses."""
        with self._changes:
            self._opened.pop(number, None)
            for lane in self._lanes:
                with contextlib.suppress(WorkerDiedError):  # its replacement will not load the classifier
                    lane.worker.close(number)

    def restore_into(self, worker: Worker) -> None:
        """Open all classifiers in a new worker."""
        with self._changes:
            worker.restore({number: opened.restores for number, opened in self._opened.items()})

    def stop(self) -> None:
        """Stop all workers and refuse waiting requests."""
        refuse(self.queue.close(), RefusalError(Kind.UNHEALTHY, "the server is shutting down"))
        with ThreadPoolExecutor(len(self._lanes)) as executor:
            list(executor.map(_Lane.stop, self._lanes))


class _Lane:
    """A worker with two threads: one sends batches, the other receives answers and replaces a dead worker."""

    def __init__(self, settings: WorkerSettings, pool: WorkerPool) -> None:
        self.settings, self.pool = settings, pool
        self.worker = Worker(settings)
        self.is_ready, self.num_restarts = True, 0
        self._under_way: deque[tuple[Batch, float]] = deque()
        """Batches sent to the worker, with the time of sending."""
        self._has_started = False
        """Whether the worker has started to compute the first of these batches."""
        self._state = threading.Lock()
        """Lock held while a batch is being assigned, and while a worker is found dead."""
        self._is_stopping = False
        self._threads = [
            threading.Thread(target=loop, daemon=True) for loop in (self._send_batches, self._take_answers)
        ]
        for thread in self._threads:
            thread.start()

    def _num_under_way(self) -> int:
        return len(self._under_way) if self.is_ready else MOST_AHEAD + 1

    def _send_batches(self) -> None:
        while (batch := self.pool.queue.take(self._num_under_way)) is not None:
            with self._state:
                worker, is_sent = self.worker, self.is_ready
                if is_sent:
                    self._under_way.append((batch, time.monotonic()))
            if not is_sent:
                self.pool.queue.put_alone(batch.requests)
                continue
            for waiting in batch.requests:
                waiting.started_at = waiting.started_at or time.monotonic()
            with contextlib.suppress(
                WorkerDiedError
            ):  # the other thread retries all batches of a dead worker
                worker.send(batch.rows())

    def _take_answers(self) -> None:
        while not self._is_stopping:
            self._take_answer()

    def _take_answer(self) -> None:
        try:
            answer = self.worker.receive(timeout_s=1.0)
        except WorkerDiedError:
            self._replace()
        except RefusedByWorkerError as error:
            batch, _ = self._finished()
            self._retry_or_refuse(batch.requests, [], RefusalError(Kind.BACKEND, str(error)))
        else:
            self._take(answer)

    def _take(self, answer: list[npt.NDArray[np.float32]] | Started | None) -> None:
        if isinstance(answer, Started):
            self._has_started = True
        elif answer is not None:
            batch, sent_at = self._finished()
            deliver(batch, answer)
            self.pool.on_batch(batch, time.monotonic() - sent_at)
        elif self._under_way and time.monotonic() - self._under_way[0][1] > BATCH_SECONDS:
            log.error("a batch took more than %d s; replacing its worker", BATCH_SECONDS)
            self.worker.kill()

    def _finished(self) -> tuple[Batch, float]:
        """Remove and return the batch that the worker has answered, and the time at which it was sent."""
        batch, sent_at = self._under_way.popleft()
        self._has_started = False
        self.pool.queue.wake()
        return batch, sent_at

    def _replace(self) -> None:
        """Start a new worker and retry the batches of the old one."""
        if self._is_stopping:
            return
        self.worker.kill()
        with self._state:
            self.is_ready = False
            lost, has_started = [batch for batch, _ in self._under_way], self._has_started
            self._under_way.clear()
            self._has_started = False
        self.num_restarts += 1
        begun = lost[0].requests if lost and has_started else []
        log.error("a worker died while computing %d requests; starting a new one", len(begun))
        others = dict.fromkeys(each for batch in lost for each in batch.requests if each not in begun)
        twice = RefusalError(Kind.BACKEND, "two workers died while computing this request")
        self._retry_or_refuse(begun, list(others), twice)
        while not self._is_stopping:
            try:
                self.worker = Worker(self.settings)
                self.pool.restore_into(self.worker)
                break
            except (WorkerDiedError, RefusedByWorkerError) as error:
                log.error("the new worker failed to start: %s", error)
                time.sleep(PAUSE_SECONDS)
        self.is_ready = True
        self.pool.queue.wake()

    def _retry_or_refuse(
        self, suspects: Sequence[Waiting], others: Sequence[Waiting], error: RefusalError
    ) -> None:
        """Retry requests. Refuse suspects that have failed MOST_TRIES times."""
        for waiting in suspects:
            waiting.tries += 1
        refuse([waiting for waiting in suspects if waiting.tries >= MOST_TRIES], error)
        self.pool.queue.put_alone([*(each for each in suspects if each.tries < MOST_TRIES), *others])

    def stop(self) -> None:
        """Stop the threads and the process."""
        self._is_stopping = True
        self.pool.queue.wake()
        self.worker.stop()
        for thread in self._threads:
            thread.join(5)
