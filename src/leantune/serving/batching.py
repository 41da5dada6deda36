"""The queue of waiting requests, and padding-free batches of their texts within a token budget.

An idle worker takes a batch at once: no request waits for others to arrive. Requests take turns, so that a request with
thousands of texts does not block the others.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from leantune.serving.refusals import Kind, RefusalError
from leantune.serving.worker import TokenRows

TEXTS_A_TURN = 32
"""Number of texts that a request adds to a batch before the next request takes its turn."""
MOST_AHEAD, TOKENS_AHEAD = 1, 1024
"""Largest number of batches queued at a busy worker, and their smallest size in tokens: smaller ones are overhead."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A request whose texts are queued, being computed, or done."""

    number: int
    """The classifier's number."""
    group: str
    """Group of classifiers whose texts can share a batch."""
    input_ids: list[npt.NDArray[np.int32]]
    """Token ids of each of N texts, including special tokens."""
    second_starts: npt.NDArray[np.int32]
    """Start of the second text in each row, ``(N,)``; see `Encoded`."""
    deadline: float
    """Time of `time.monotonic` after which the request fails."""
    done: asyncio.Future[list[npt.NDArray[np.float32]]]
    """Future with N arrays of logits, ``(C,)`` each."""
    loop: asyncio.AbstractEventLoop
    queued_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None
    """Time at which a worker took the first text; None while all texts are queued."""
    is_gone: bool = False
    """Whether the answer is no longer needed."""
    tries: int = 0
    """Number of workers that died or failed while computing the request."""
    next_text: int = 0
    logits: list[npt.NDArray[np.float32] | None] = field(default_factory=list)
    missing: int = 0

    def __post_init__(self) -> None:
        self.logits, self.missing = [None] * len(self.input_ids), len(self.input_ids)

    def again(self) -> None:
        """Reset the request to its first text."""
        self.next_text = 0
        self.logits, self.missing = [None] * len(self.input_ids), len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of one or more requests that are computed together."""

    texts: tuple[tuple[Waiting, int], ...]
    """Pairs of a request and the index of its text."""
    num_tokens: int

    def rows(self) -> TokenRows:
        """Return the message to the worker."""
        ids = [waiting.input_ids[i] for waiting, i in self.texts]
        return TokenRows(
            numbers=tuple(waiting.number for waiting, _ in self.texts),
            input_ids=np.concatenate(ids),
            lengths=np.fromiter(map(len, ids), dtype=np.int32, count=len(ids)),
            second_starts=np.array([waiting.second_starts[i] for waiting, i in self.texts], dtype=np.int32),
        )

    @property
    def requests(self) -> list[Waiting]:
        """The requests in the batch, each once."""
        return list(dict.fromkeys(waiting for waiting, _ in self.texts))


class BatchQueue:
    """A thread-safe queue of requests, in order of arrival, from which worker threads take batches.

    Args:
        max_tokens: largest number of tokens in a batch. A single longer text is a batch of its own.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._groups: dict[str, deque[Waiting]] = {}
        self._alone: deque[Waiting] = deque()
        self._changed = threading.Condition()
        self._is_closed = False

    def put(self, waiting: Waiting) -> None:
        """Add a request."""
        with self._changed:
            self._groups.setdefault(waiting.group, deque()).append(waiting)
            self._changed.notify_all()  # wake all threads, since only some belong to idle workers

    def put_alone(self, requests: Sequence[Waiting]) -> None:
        """Restart requests from their first texts, each in its own batch and ahead of all other requests."""
        with self._changed:
            for waiting in requests:
                waiting.again()
                self._leave_group(waiting)
                if waiting not in self._alone:  # two workers may have had batches with its texts
                    self._alone.append(waiting)
            self._changed.notify_all()

    def _leave_group(self, waiting: Waiting) -> None:
        """Remove a request with remaining texts from the queue of its group."""
        queue = self._groups.get(waiting.group)
        if queue is not None and waiting in queue:
            queue.remove(waiting)
            if not queue:
                del self._groups[waiting.group]

    def take(self, num_under_way: Callable[[], int]) -> Batch | None:
        """Wait for the next batch and return it.

        Args:
            num_under_way: returns the number of batches that the worker has. An idle worker gets any batch. A busy one
                gets one more batch of at least TOKENS_AHEAD tokens, so that it is not idle while answers are written.

        Returns:
            The batch, or None if the queue was closed.
        """
        with self._changed:
            while not self._is_closed:
                under_way = num_under_way()
                if under_way <= MOST_AHEAD:
                    batch = self._next(least_tokens=TOKENS_AHEAD if under_way else 1)
                    if batch is not None:
                        return batch
                self._changed.wait()
        return None

    def wake(self) -> None:
        """Wake waiting threads because a worker has become idle."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> list[Waiting]:
        """Close the queue and return the requests that were still waiting."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            return [each for group in (*self._groups.values(), self._alone) for each in group]

    def sizes(self) -> tuple[int, int]:
        """Return the numbers of waiting requests and waiting tokens."""
        with self._changed:
            waiting = [each for group in (*self._groups.values(), self._alone) for each in group]
            return len(waiting), sum(len(ids) for each in waiting for ids in each.input_ids[each.next_text :])

    def _next(self, *, least_tokens: int) -> Batch | None:
        while self._alone:
            one = deque([self._alone.popleft()])
            batch = self._fill(one)
            self._alone.extendleft(one)  # keep a request with remaining texts
            if batch is not None:
                return batch
        while self._groups:
            name = min(self._groups, key=lambda group: self._groups[group][0].queued_at)
            queue = self._groups[name]
            if _tokens_in(queue, least_tokens) < least_tokens:
                return None
            batch = self._fill(queue)
            if not queue:
                del self._groups[name]
            if batch is not None:
                return batch
        return None

    def _fill(self, queue: deque[Waiting]) -> Batch | None:
        texts: list[tuple[Waiting, int]] = []
        tokens = 0
        while queue:
            waiting = queue.popleft()
            if _is_over(waiting):
                continue
            for _ in range(TEXTS_A_TURN):
                size = len(waiting.input_ids[waiting.next_text])
                if texts and tokens + size > self.max_tokens:
                    queue.appendleft(waiting)
                    return Batch(tuple(texts), tokens)
                texts.append((waiting, waiting.next_text))
                tokens += size
                waiting.next_text += 1
                if waiting.next_text == len(waiting.input_ids):
                    break
            else:
                queue.append(waiting)
        return Batch(tuple(texts), tokens) if texts else None


def _tokens_in(queue: deque[Waiting], enough: int) -> int:
    """Return the number of waiting tokens; stop counting at ``enough``."""
    tokens = 0
    for waiting in queue:
        for ids in waiting.input_ids[waiting.next_text :]:
            tokens += len(ids)
            if tokens >= enough:
                return tokens
    return tokens


def _is_over(waiting: Waiting) -> bool:
    """Return whether to drop a request: its client is gone, it was refused, or its deadline has passed."""
    if waiting.is_gone or waiting.done.done():
        return True
    if time.monotonic() < waiting.deadline:
        return False
    refuse(
        [waiting],
        RefusalError(Kind.TIMEOUT, "the request timed out in the queue (--timeout); try again later"),
    )
    return True


def deliver(batch: Batch, logits: Sequence[npt.NDArray[np.float32]]) -> None:
    """Store the logits of a batch in its requests, and answer the requests that are complete."""
    finished = []
    for (waiting, i), row in zip(batch.texts, logits, strict=True):
        if waiting.logits[i] is None:
            waiting.missing -= 1
        waiting.logits[i] = row
        if waiting.missing == 0:
            finished.append(waiting)
    if finished:
        _soon(finished[0].loop, lambda: _answer(finished))


def _answer(finished: Sequence[Waiting]) -> None:
    for waiting in finished:
        if not waiting.done.done():
            waiting.done.set_result([row for row in waiting.logits if row is not None])


def refuse(requests: Sequence[Waiting], error: Exception) -> None:
    """Answer the requests with an error."""

    def tell() -> None:
        for waiting in requests:
            if not waiting.done.done():
                waiting.done.set_exception(error)

    for waiting in requests:
        waiting.is_gone = True
    if requests:
        _soon(requests[0].loop, tell)


def _soon(loop: asyncio.AbstractEventLoop, do: Callable[[], None]) -> None:
    """Run ``do`` in the server's event loop, unless the loop is closed."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(do)
