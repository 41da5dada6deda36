"""A worker process that computes logits, and its handle in the server.

The server stays responsive while a worker computes, and survives if the worker dies.
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
"""Seconds to wait for a worker to start or to open a classifier before it is killed."""


_DIED = "its process died"


@dataclass(frozen=True, slots=True)
class Started:
    """Message that a worker has started to compute a batch. If it dies now, the batch may be the cause."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A classifier that a worker has opened."""

    description: Description
    restores: bytes
    """Bytes from which `Worker.restore` opens the classifier in another worker."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Settings of a worker process."""

    precision: str | None
    adapter_memory_bytes: int
    num_workers: int
    """Number of workers that share the cores."""


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Tokens of N texts, as sent to a worker; T tokens in all."""

    numbers: tuple[int, ...]
    """The classifier's number of each text."""
    input_ids: npt.NDArray[np.int32]
    """Concatenated token ids of all texts, ``(T,)``."""
    lengths: npt.NDArray[np.int32]
    """Number of tokens of each text, ``(N,)``."""
    second_starts: npt.NDArray[np.int32]
    """Start of the second text in each row, ``(N,)``; see `Encoded`."""


class WorkerDiedError(Exception):
    """Raised when a worker process ended before it answered."""


class RefusedByWorkerError(Exception):
    """Raised when a worker answered with an error. The text is for the client."""


class Worker:
    """The handle of one worker process. Computing and controlling may happen in two threads at the same time.

    Args:
        settings: settings of the process.
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
        """ID of the process."""
        pid = self._process.pid
        assert pid is not None
        return pid

    def send(self, rows: TokenRows) -> None:
        """Send a batch to the worker. `receive` returns answers in the same order.

        Raises:
            WorkerDiedError: if the process has died.
        """
        _or_died(lambda: self._compute.send(rows))

    def receive(self, timeout_s: float) -> list[npt.NDArray[np.float32]] | Started | None:
        """Receive the next message about the oldest batch: `Started`, then its logits; None after the timeout.

        Raises:
            WorkerDiedError: if the process has died.
            RefusedByWorkerError: if the worker failed to compute the batch.
        """
        if self._compute not in _or_died(lambda: wait([self._compute, self._process.sentinel], timeout_s)):
            if self._process.is_alive():
                return None
            raise WorkerDiedError(_DIED)
        answer: list[npt.NDArray[np.float32]] | Started = _answer(_or_died(self._compute.recv))
        return answer

    def open(self, number: int, source: str, *, shares: bool) -> Opened:
        """Open a classifier; see `Engine.open`.

        Raises:
            WorkerDiedError, RefusedByWorkerError: see `receive`.
        """
        opened: Opened = self._ask("open", number, source, shares)
        return opened

    def restore(self, classifiers: Mapping[int, bytes]) -> None:
        """Open classifiers of another worker; see `Engine.restore`.

        Raises:
            WorkerDiedError, RefusedByWorkerError: see `receive`.
        """
        self._ask("restore", dict(classifiers))

    def close(self, number: int) -> None:
        """Remove a classifier; see `Engine.close`."""
        self._ask("close", number)

    def _ask(self, *message: Any) -> Any:
        with self._controls:
            _or_died(lambda: self._control.send(message))
            if self._control not in wait([self._control, self._process.sentinel], START_SECONDS):
                self.kill()
                raise WorkerDiedError(f"{_DIED} or did not answer within {START_SECONDS} s")
            return _answer(_or_died(self._control.recv))

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        """Let the process finish its batches and exit; kill it after 10 s."""
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
    """Run the worker process until the server closes the connection."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the server decides when the worker ends
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
    os._exit(0)  # there is nothing to save, and the control thread may be busy


def _serve_controls(control: Connection, engine: Any) -> None:
    def run(message: tuple[Any, ...]) -> Any:
        kind, *arguments = message
        if kind == "open":
            number, source, shares = arguments
            return Opened(*engine.open(number, source, shares=shares))
        return engine.restore(*arguments) if kind == "restore" else engine.close(*arguments)

    _serve(control, run)


def _serve(connection: Connection, do: Callable[[Any], Any]) -> None:
    """Answer every message until the other end is closed; send errors as `_Failure`."""
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
