"""The load of each level, by one process or by several."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence

from leantune.errors import ResourceError
from leantune.serving.load.levels import Level, Load, make_load
from leantune.serving.load.summary import Summary, summary_of

START_S = 0.05
"""Until the first request, in which what is sent is made."""
START_OF_PROCESSES_S = 2.0
"""The same where processes must start."""
END_S = 60.0
"""A process that says nothing so long after the last answer could come is gone."""


def measure(load: Load, levels: Sequence[Level], processes: int = 1) -> Iterator[Summary]:
    """Make the load of one level after the other; each is given when it is done.

    Raises:
        ResourceError: a process ended before its work, killed for its memory perhaps.
        Interrupted: SIGTERM came.
    """
    if processes == 1:
        for level in levels:
            starts_at = time.monotonic() + START_S
            yield summary_of(level, load, [make_load(load, level, starts_at)], starts_at)
        return
    # fresh processes: copies of this one would have the locks of its threads, too; who ends this one ends them
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        for level in levels:
            starts_at = time.monotonic() + START_OF_PROCESSES_S
            work = [(load, share, starts_at, i) for i, share in enumerate(level.shares(processes))]
            asked = pool.starmap_async(make_load, work, chunksize=1)
            most = START_OF_PROCESSES_S + load.warmup + load.seconds + load.timeout + END_S
            try:
                shares = asked.get(most)
            except multiprocessing.TimeoutError as error:
                raise ResourceError(
                    "a process of the load generator is gone; was it killed? Give fewer --processes"
                ) from error
            yield summary_of(level, load, shares, starts_at)
