"""A process that computes, and what the server holds of it.

Weights and products are in a process of their own: the server answers while it computes, and lives on where it dies.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import numpy.typing as npt

from leantune.errors import LeantuneError
from leantune.serving.description import Description

START_SECONDS = 300
"""A worker that says nothing for so long while it starts or opens a classifier is given up."""


_DIED = "its process died"


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has begun with a batch: if it dies now, it may have died of it."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A classifier that a worker opened."""

    description: Description
    restores: bytes
    """What another worker is given to open the same."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is told when it starts."""

    precision: str | None
    adapter_memory_bytes: int
    num_workers: int
    """Among how many the cores are shared out."""


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Tokens of N texts on their way to a worker."""

    numbers: tuple[int, ...]
    """The classifier of each."""
    input_ids: npt.NDArray[np.int32]
    """``(T,)``: those of all texts, one after the other."""
    lengths: npt.NDArray[np.int32]
    """``(N,)``."""
    second_starts: npt.NDArray[np.int32]
    """``(N,)``: see `Encoded`."""


class WorkerDiedError(Exception):
    """The process of a worker ended before it answered."""


class RefusedByWorkerError(Exception):
    """A worker could not do what it was asked; the text is for the client."""


class Worker:
    """The handle of one process. One thread may compute and another control at a time.

    Args:
        settings: of the process.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        context = get_context("spawn")
        self._compute, compute = context.Pipe()
        self._control, control = context.Pipe()
        self._process = context.Process(target=_main, args=(compute, control, settings), daemon=True)
        self._process.start()
        compute.close()
        control.close()
        self._controls = threading.Lock()

    @property
    def pid(self) -> int:
        """Of the process."""
        pid = self._process.pid
        assert pid is not None
        return pid

    def send(self, rows: TokenRows) -> None:
        """Give it a batch to compute; `receive` gives answers in the same order.

        Raises:
            WorkerDiedError: if the process is gone.
        """
        _or_died(lambda: self._compute.send(rows))

    def receive(self, timeout_s: float) -> list[npt.NDArray[np.float32]] | Started | None:
        """That the oldest batch that was sent is being computed, then its logits; None if nothing comes meanwhile.

        Raises:
            WorkerDiedError: if the process is gone.
            RefusedByWorkerError: saying why it could not.
        """
        if self._compute not in _or_died(lambda: wait([self._compute, self._process.sentinel], timeout_s)):
            if self._process.is_alive():
                return None
            raise WorkerDiedError(_DIED)
        answer: list[npt.NDArray[np.float32]] | Started = _answer(_or_died(self._compute.recv))
        return answer

    def open(self, number: int, source: str, *, shares: bool) -> Opened:
        """See `Engine.open`.

        Raises:
            WorkerDiedError, RefusedByWorkerError: see `receive`.
        """
        opened: Opened = self._ask("open", number, source, shares)
        return opened

    def restore(self, classifiers: Mapping[int, bytes]) -> None:
        """See `Engine.restore`.

        Raises:
            WorkerDiedError, RefusedByWorkerError: see `receive`.
        """
        self._ask("restore", dict(classifiers))

    def close(self, number: int) -> None:
        """See `Engine.close`."""
        self._ask("close", number)

    def _ask(self, *message: Any) -> Any:
        with self._controls:
            _or_died(lambda: self._control.send(message))
            if self._control not in wait([self._control, self._process.sentinel], START_SECONDS):
                self.kill()
                raise WorkerDiedError(f"{_DIED}, or said nothing for {START_SECONDS} s")
            return _answer(_or_died(self._control.recv))

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        """End the process when it has computed what it was sent."""
        self._compute.close()
        self._control.close()
        self._process.join(10)
        self._process.kill()


def _or_died(do: Callable[[], Any]) -> Any:
    try:
        return do()
    except (EOFError, OSError) as error:
        raise WorkerDiedError(_DIED) from error


def _answer(found: Any) -> Any:
    if isinstance(found, _Failure):
        raise RefusedByWorkerError(found.message)
    return found


@dataclass(frozen=True, slots=True)
class _Failure:
    message: str


def _main(compute: Connection, control: Connection, settings: WorkerSettings) -> None:
    """The process: computes what comes in, until the server is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the server says when it ends
        signal.signal(number, signal.SIG_IGN)
    from leantune.system.memory import keep_freed_memory
    from leantune.system.openmp import share_cores, spin_briefly

    spin_briefly()
    share_cores(settings.num_workers)
    keep_freed_memory()
    from leantune.serving.engine import Engine

    engine = Engine(precision=settings.precision, adapter_memory_bytes=settings.adapter_memory_bytes)
    controls = threading.Thread(target=_serve_controls, args=(control, engine), daemon=True)
    controls.start()

    def run(rows: TokenRows) -> Any:
        compute.send(Started())
        return engine.logits(_encoded(rows), rows.numbers)

    _serve(compute, run)
    os._exit(0)  # nothing is to be saved, and a control may be under way


def _serve_controls(control: Connection, engine: Any) -> None:
    def run(message: tuple[Any, ...]) -> Any:
        kind, *arguments = message
        if kind == "open":
            number, source, shares = arguments
            return Opened(*engine.open(number, source, shares=shares))
        return engine.restore(*arguments) if kind == "restore" else engine.close(*arguments)

    _serve(control, run)


def _serve(connection: Connection, do: Callable[[Any], Any]) -> None:
    """Answer every message, an error with a failure, until the other end is closed."""
    from leantune.serving.engine import error_text

    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = do(message)
        except (LeantuneError, MemoryError, RuntimeError, ValueError, OSError, KeyError) as error:
            answer = _Failure(error_text(error))
        try:
            connection.send(answer)
        except (BrokenPipeError, OSError):
            return


def _encoded(rows: TokenRows) -> Any:
    from leantune.data.tokens.tokenization import Encoded

    ends = np.cumsum(rows.lengths)
    return Encoded(np.split(rows.input_ids, ends[:-1]), rows.second_starts, rows.lengths)
