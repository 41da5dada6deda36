"""Requests that wait, and batches of their texts that fill a budget of tokens without padding.

A batch is taken as soon as a worker is idle: no request waits for others to come. Requests take turns, so that one with
thousands of texts does not keep the others waiting.
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
"""Texts that a request gives to a batch before the next request has its turn."""
MOST_AHEAD, TOKENS_AHEAD = 1, 1024
"""Batches that a worker has ahead of the one that it computes, and their least size: less is mostly overhead."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A request whose texts wait for logits, are computed, or are done."""

    number: int
    """Of its classifier."""
    group: str
    """Texts of one group can be in one batch."""
    input_ids: list[npt.NDArray[np.int32]]
    """The tokens of each of N texts, special tokens included."""
    second_starts: npt.NDArray[np.int32]
    """``(N,)``: see `Encoded`."""
    deadline: float
    """By `time.monotonic`."""
    done: asyncio.Future[list[npt.NDArray[np.float32]]]
    """N arrays ``(C,)`` of logits."""
    loop: asyncio.AbstractEventLoop
    queued_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None
    """When its first text was taken."""
    is_gone: bool = False
    """Whether nobody waits for it any more."""
    tries: int = 0
    """Workers that died of it."""
    next_text: int = 0
    logits: list[npt.NDArray[np.float32] | None] = field(default_factory=list)
    missing: int = 0

    def __post_init__(self) -> None:
        self.logits, self.missing = [None] * len(self.input_ids), len(self.input_ids)

    def again(self) -> None:
        """Begin from the first text."""
        self.next_text = 0
        self.logits, self.missing = [None] * len(self.input_ids), len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of one or more requests that are computed together."""

    texts: tuple[tuple[Waiting, int], ...]
    """Requests, and which of their texts."""
    num_tokens: int

    def rows(self) -> TokenRows:
        """What a worker is sent."""
        ids = [waiting.input_ids[i] for waiting, i in self.texts]
        return TokenRows(
            numbers=tuple(waiting.number for waiting, _ in self.texts),
            input_ids=np.concatenate(ids),
            lengths=np.fromiter(map(len, ids), dtype=np.int32, count=len(ids)),
            second_starts=np.array([waiting.second_starts[i] for waiting, i in self.texts], dtype=np.int32),
        )

    @property
    def requests(self) -> list[Waiting]:
        """The requests, each once."""
        return list(dict.fromkeys(waiting for waiting, _ in self.texts))


class BatchQueue:
    """Requests in the order in which they came; threads of workers take batches of them.

    Args:
        max_tokens: of a batch.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._groups: dict[str, deque[Waiting]] = {}
        self._alone: deque[Waiting] = deque()
        self._changed = threading.Condition()
        self._is_closed = False

    def put(self, waiting: Waiting) -> None:
        """Let a request wait."""
        with self._changed:
            self._groups.setdefault(waiting.group, deque()).append(waiting)
            self._changed.notify_all()  # an idle worker is among those that wait, and nobody knows which

    def put_alone(self, requests: Sequence[Waiting]) -> None:
        """Let requests be computed again from their first texts, each by itself and before all others."""
        with self._changed:
            for waiting in requests:
                waiting.again()
                self._leave_group(waiting)
                if waiting not in self._alone:  # batches of two workers may have had texts of it
                    self._alone.append(waiting)
            self._changed.notify_all()

    def _leave_group(self, waiting: Waiting) -> None:
        """A request whose texts were not all taken still stands there."""
        queue = self._groups.get(waiting.group)
        if queue is not None and waiting in queue:
            queue.remove(waiting)
            if not queue:
                del self._groups[waiting.group]

    def take(self, num_under_way: Callable[[], int]) -> Batch | None:
        """The next batch; waits for it.

        Args:
            num_under_way: batches that the worker has. An idle one gets whatever there is. One that computes gets
                another ahead if that is worth a batch of its own, so that it is not idle while answers are written.

        Returns:
            None if the queue was closed.
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
        """Let who waits look again: a worker has become idle."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> list[Waiting]:
        """Give out no more batches; returns the requests that still waited."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            return [each for group in (*self._groups.values(), self._alone) for each in group]

    def sizes(self) -> tuple[int, int]:
        """Requests and tokens that wait."""
        with self._changed:
            waiting = [each for group in (*self._groups.values(), self._alone) for each in group]
            return len(waiting), sum(len(ids) for each in waiting for ids in each.input_ids[each.next_text :])

    def _next(self, *, least_tokens: int) -> Batch | None:
        while self._alone:
            one = deque([self._alone.popleft()])
            batch = self._fill(one)
            self._alone.extendleft(one)  # what is left of its texts
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
    """Tokens that wait there, counted up to ``enough``."""
    tokens = 0
    for waiting in queue:
        for ids in waiting.input_ids[waiting.next_text :]:
            tokens += len(ids)
            if tokens >= enough:
                return tokens
    return tokens


def _is_over(waiting: Waiting) -> bool:
    """Whether the work of a request is dropped: its client is gone, it was refused, or its time is up."""
    if waiting.is_gone or waiting.done.done():
        return True
    if time.monotonic() < waiting.deadline:
        return False
    refuse(
        [waiting],
        RefusalError(Kind.TIMEOUT, "the request waited longer than the server's --timeout; try again later"),
    )
    return True


def deliver(batch: Batch, logits: Sequence[npt.NDArray[np.float32]]) -> None:
    """Hand the logits of a batch to its requests; those that have all are answered."""
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
    """Answer requests with an error."""

    def tell() -> None:
        for waiting in requests:
            if not waiting.done.done():
                waiting.done.set_exception(error)

    for waiting in requests:
        waiting.is_gone = True
    if requests:
        _soon(requests[0].loop, tell)


def _soon(loop: asyncio.AbstractEventLoop, do: Callable[[], None]) -> None:
    """Run ``do`` in the loop of the server; once that has ended nobody waits any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(do)
