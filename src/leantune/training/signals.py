"""SIGINT and SIGTERM end a run after the current step; a second signal has its usual effect."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from leantune.system import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def resume_command(folder: Path) -> str:
    """The command that resumes the run in ``folder``, on the same number of processes."""
    size = distributed.world_size()
    program = "leantune" if size == 1 else f"torchrun --nproc-per-node {size} -m leantune"
    return f"{program} train --resume {shlex.quote(str(folder))}"


class Interrupt:
    """The signal that asked the run to stop, if any.

    Args:
        resume: the command that resumes the run in a folder.
    """

    def __init__(self, resume: Callable[[Path], str] = resume_command) -> None:
        self.signal_number: int | None = None
        self.resume = resume
        # None means a handler that was not set from Python and cannot be restored
        self._previous = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note the signal, and restore the previous handlers for the next one."""
        self.signal_number = number
        self.restore()

    def restore(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Catch both signals within the block; outside the main thread nothing is caught."""
    interrupt = Interrupt()
    try:
        for number in SIGNALS:
            signal.signal(number, interrupt.receive)
    except ValueError:  # not the main thread: signals are left to the caller
        yield interrupt
        return
    try:
        yield interrupt
    finally:
        interrupt.restore()
