"""The event loop of the load generator, which ends when the process is told to."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

from leantune.errors import Interrupted

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end.

    Raises:
        Interrupted: SIGTERM came. The handler of other commands raises that itself, but uvloop prints what a handler
            raises, and goes on.
    """
    is_a_share = multiprocessing.parent_process() is not None  # it ends at once, with the default handler
    if is_a_share or threading.current_thread() is not threading.main_thread():
        return uvloop.run(work)
    before = signal.getsignal(signal.SIGTERM)
    try:
        return uvloop.run(_until_told(work))
    finally:
        signal.signal(signal.SIGTERM, before)


async def _until_told(work: Coroutine[Any, Any, T]) -> T:
    working = asyncio.ensure_future(work)
    is_told = False

    def end() -> None:
        nonlocal is_told
        is_told = True
        working.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    try:
        return await working
    except asyncio.CancelledError:
        if not is_told:
            raise
        raise Interrupted("stopped by SIGTERM", signal_number=signal.SIGTERM) from None
