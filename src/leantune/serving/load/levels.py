"""Load on a server: so many clients that wait for their answers, or so many requests a second, come what may.

With clients (a closed loop) a slow server gets fewer requests. With a rate (an open loop) requests come at the times of
a Poisson process, whether those before were answered or not, and the latency of each counts from its planned time: a
server that stands still for a second is charged with all requests of that second.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import NamedTuple

from leantune.serving.load.connection import Address, Answer, Connections
from leantune.serving.load.dialects import DIALECTS, message_of, problem_of
from leantune.serving.load.event_loop import run
from leantune.system.messages import one_line

ANSWERED, REFUSED, FAILED = "answered", "refused", "failed"
"""What became of a request; a server that has too much to do refuses with status 429."""
PAUSE_S = 0.1
"""A client that was refused comes again after this: it would do nothing else at all."""


@dataclass(frozen=True, slots=True)
class Level:
    """How much load: one of the two is given.

    Args:
        clients: each sends its next request when the last was answered.
        rate: requests a second, at the times of a Poisson process.
    """

    clients: int | None = None
    rate: float | None = None

    @property
    def title(self) -> str:
        """A level in words.

        >>> Level(clients=8).title, Level(rate=50).title
        ('8 clients', '50 requests/s')
        """
        if self.clients is not None:
            return f"{self.clients} client{'' if self.clients == 1 else 's'}"
        return f"{self.rate:g} requests/s"

    def shares(self, processes: int) -> list[Level]:
        """What each of so many processes does of it.

        >>> Level(clients=3).shares(2)
        [Level(clients=2, rate=None), Level(clients=1, rate=None)]
        """
        if self.clients is not None:
            counts = (len(range(i, self.clients, processes)) for i in range(processes))
            return [replace(self, clients=count) for count in counts if count]
        assert self.rate is not None
        return [replace(self, rate=self.rate / processes)] * processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent, how, and for how long.

    Args:
        address: of the server.
        dialect: a key of `DIALECTS`.
        model: the name that the server has for the model; None: its only one.
        key: what the server asks for, if it does.
        texts: in groups, each the texts of one request; they are sent in turn.
        seconds: how long is measured.
        warmup: seconds of the same load before that.
        timeout: seconds after which a request has failed.
        seed: of the times at which requests come.
    """

    address: Address
    dialect: str
    texts: Sequence[Sequence[str]]
    model: str | None = None
    key: str | None = None
    seconds: float = 10.0
    warmup: float = 2.0
    timeout: float = 30.0
    seed: int = 0

    def requests(self) -> list[bytes]:
        """The bytes of each request."""
        dialect = DIALECTS[self.dialect]
        path = dialect.path(self.model)
        bodies = (json.dumps(dialect.body(each, self.model), ensure_ascii=False) for each in self.texts)
        return [
            self.address.request("POST", path, body.encode("utf-8", "replace"), key=self.key)
            for body in bodies
        ]


class Record(NamedTuple):
    """One request; its times are those of ``time.monotonic``."""

    planned: float
    done: float
    outcome: str
    message: str | None
    """What went wrong."""


class Share(NamedTuple):
    """What one process saw of a level."""

    records: list[Record]
    busy: float
    """CPU seconds a second of this process, while it was measured."""


def make_load(load: Load, level: Level, starts_at: float, number: int = 0) -> Share:
    """Make the load of one level in this process, and say what came back.

    Args:
        load: what is sent.
        level: how much of it, by this process.
        starts_at: when, by ``time.monotonic``, which is the same for all processes.
        number: of this process.
    """
    gc.freeze()  # else a collection would look at all modules, and every latency of that time would have it
    return run(_Maker(load, level, starts_at, number).run())


def arrival_times(level: Level, seed: int, number: int = 0) -> Iterator[float]:
    """Seconds after the start at which requests come, without end; the same for the same seed.

    Args:
        level: with a rate.
        seed: of this level and all others.
        number: of the process: each has times of its own.
    """
    assert level.rate is not None
    rng = random.Random(f"{seed} {level.rate} {number}")
    seconds = 0.0
    while True:
        seconds += rng.expovariate(level.rate)
        yield seconds


class _Maker:
    """The load of one level by one process."""

    def __init__(self, load: Load, level: Level, starts_at: float, number: int) -> None:
        self._load, self._level, self._number = load, level, number
        self._measured_from = starts_at + load.warmup
        self._ends_at = self._measured_from + load.seconds
        self._starts_at = starts_at
        requests = load.requests()
        first = number * 7919 % len(requests)  # processes start at other texts
        self._requests = islice(cycle(requests), first, None)
        self._records: list[Record] = []
        self._num_texts = len(load.texts[0])
        self._dialect = DIALECTS[load.dialect]

    async def run(self) -> Share:
        self._connections = Connections(self._load.address)
        cpu = asyncio.create_task(self._cpu_seconds())
        await _until(self._starts_at)
        try:
            await (self._clients() if self._level.clients is not None else self._arrivals())
        finally:
            self._connections.close()
        seen = [each for each in self._records if each.done >= self._measured_from]
        return Share(seen, await cpu / self._load.seconds)

    async def _cpu_seconds(self) -> float:
        await _until(self._measured_from)
        before = time.process_time()
        await _until(self._ends_at)
        return time.process_time() - before

    async def _clients(self) -> None:
        assert self._level.clients is not None
        await asyncio.gather(*(self._client() for _ in range(self._level.clients)))

    async def _client(self) -> None:
        while (now := time.monotonic()) < self._ends_at:
            if await self._ask(now) != ANSWERED:
                await asyncio.sleep(PAUSE_S)

    async def _arrivals(self) -> None:
        """A thread keeps the time: those of an event loop are whole milliseconds."""
        loop, stopped = asyncio.get_running_loop(), threading.Event()
        waiting: set[asyncio.Task[str]] = set()

        def arrive(planned: float) -> None:
            task = loop.create_task(self._ask(planned))
            waiting.add(task)
            task.add_done_callback(waiting.discard)

        def keep_time() -> None:
            for planned in arrival_times(self._level, self._load.seed, self._number):
                planned += self._starts_at
                if planned >= self._ends_at or stopped.wait(max(0.0, planned - time.monotonic())):
                    return
                loop.call_soon_threadsafe(arrive, planned)

        try:
            await loop.run_in_executor(None, keep_time)
        finally:
            stopped.set()
        while waiting:
            await asyncio.wait(waiting)

    async def _ask(self, planned: float) -> str:
        until = planned + self._load.timeout
        try:
            answer = await self._connections.ask(next(self._requests), until)
        except OSError as error:
            waited = f" ({self._load.timeout:g} s)" if isinstance(error, TimeoutError) else ""
            record = Record(planned, time.monotonic(), FAILED, one_line(error) + waited)
        else:
            record = Record(planned, answer.arrived, *self._judge(answer))
        self._records.append(record)
        return record.outcome

    def _judge(self, answer: Answer) -> tuple[str, str | None]:
        if answer.status == 200:
            problem = problem_of(self._dialect, answer.body, self._num_texts)
            return (ANSWERED, None) if problem is None else (FAILED, problem)
        message = f"status {answer.status}: {message_of(answer.body)}"
        return (REFUSED if answer.status == 429 else FAILED), message


async def _until(moment: float) -> None:
    """Sleep until then, and never less: a timer of whole milliseconds may end before it."""
    while (left := moment - time.monotonic()) > 0:
        await asyncio.sleep(left)
