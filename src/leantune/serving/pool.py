"""The workers: each takes batches from the queue, and is replaced where it dies.

A request that a worker dies of is computed once more by itself, so that others in its batch are answered. It is refused
when another worker dies of it.
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
"""A batch that takes longer is given up, and its worker with it."""
PAUSE_SECONDS = 1.0
"""Between a worker that could not start and the next try."""
MOST_TRIES = 2
"""A request that so many workers died of is refused."""


class WorkerPool:
    """Workers with the same classifiers.

    Args:
        settings: of each worker.
        count: how many.
        queue: what they take batches from.
        on_batch: told of each batch that was computed, and of the seconds that it took.
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
        """Held while classifiers are opened and closed, and while a new worker is given them."""
        self._lanes = [_Lane(settings, self) for _ in range(count)]

    @property
    def is_ready(self) -> bool:
        """Whether any worker computes."""
        return any(lane.is_ready for lane in self._lanes)

    @property
    def num_restarts(self) -> int:
        """How often workers were replaced."""
        return sum(lane.num_restarts for lane in self._lanes)

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
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
        """Forget a classifier that no request waits for."""
        with self._changes:
            self._opened.pop(number, None)
            for lane in self._lanes:
                with contextlib.suppress(WorkerDiedError):  # one that died has forgotten it
                    lane.worker.close(number)

    def restore_into(self, worker: Worker) -> None:
        """Give a new worker what the others have."""
        with self._changes:
            worker.restore({number: opened.restores for number, opened in self._opened.items()})

    def stop(self) -> None:
        """End all workers; requests that still wait are refused."""
        refuse(self.queue.close(), RefusalError(Kind.UNHEALTHY, "the server stops"))
        with ThreadPoolExecutor(len(self._lanes)) as executor:
            list(executor.map(_Lane.stop, self._lanes))


class _Lane:
    """A worker, the thread that sends it batches, and the thread that takes its answers and replaces it."""

    def __init__(self, settings: WorkerSettings, pool: WorkerPool) -> None:
        self.settings, self.pool = settings, pool
        self.worker = Worker(settings)
        self.is_ready, self.num_restarts = True, 0
        self._under_way: deque[tuple[Batch, float]] = deque()
        """What it was sent, and when."""
        self._has_started = False
        """Whether the first of them is being computed."""
        self._state = threading.Lock()
        """Held while a batch is under way to a worker, or the worker is found dead."""
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
            with contextlib.suppress(WorkerDiedError):  # then it is computed again, as all that is under way
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
            log.error("a batch took more than %d s; its worker is replaced", BATCH_SECONDS)
            self.worker.kill()

    def _finished(self) -> tuple[Batch, float]:
        """The batch that the worker has just answered, and when it was sent."""
        batch, sent_at = self._under_way.popleft()
        self._has_started = False
        self.pool.queue.wake()
        return batch, sent_at

    def _replace(self) -> None:
        """Start a new worker, and have computed again what the old one had."""
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
        log.error("a worker died while it computed %d requests; a new one starts", len(begun))
        others = dict.fromkeys(each for batch in lost for each in batch.requests if each not in begun)
        twice = RefusalError(Kind.BACKEND, "the worker that computed the request died of it, twice")
        self._retry_or_refuse(begun, list(others), twice)
        while not self._is_stopping:
            try:
                self.worker = Worker(self.settings)
                self.pool.restore_into(self.worker)
                break
            except (WorkerDiedError, RefusedByWorkerError) as error:
                log.error("the new worker cannot start: %s", error)
                time.sleep(PAUSE_SECONDS)
        self.is_ready = True
        self.pool.queue.wake()

    def _retry_or_refuse(
        self, suspects: Sequence[Waiting], others: Sequence[Waiting], error: RefusalError
    ) -> None:
        """Have requests computed again, but for those that may have been the reason once before."""
        for waiting in suspects:
            waiting.tries += 1
        refuse([waiting for waiting in suspects if waiting.tries >= MOST_TRIES], error)
        self.pool.queue.put_alone([*(each for each in suspects if each.tries < MOST_TRIES), *others])

    def stop(self) -> None:
        """End the threads and the process."""
        self._is_stopping = True
        self.pool.queue.wake()
        self.worker.stop()
        for thread in self._threads:
            thread.join(5)
