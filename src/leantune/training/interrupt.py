"""SIGINT and SIGTERM end a run after the current step; a second one ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Which signal asked the run to stop, if any."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note the signal, and give the next one its usual force."""
        self.signal_number = number
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Catch the two signals within the block; outside the main thread nothing is caught."""
    interrupt = Interrupt()
    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, interrupt.receive)
    except ValueError:  # not the main thread: signals are the caller's business
        previous.clear()
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
