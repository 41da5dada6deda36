"""What a level of load came to: requests a second, and how long they took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leantune.serving.load.levels import ANSWERED, FAILED, REFUSED, Level, Load, Share

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One level; ``sent`` is the sum of ``answered``, ``refused`` and ``failed``."""

    level: str
    clients: int | None
    rate: float | None
    sent: int
    """Requests that were to be sent while it was measured; they are waited for after it, too."""
    answered: int
    refused: int
    """With status 429."""
    failed: int
    requests_per_s: float
    """Answers that came while it was measured, whenever their requests were sent."""
    texts_per_s: float
    latency_ms: dict[str, float] | None
    """Of answered requests, as ``p50``, ``p95``, ``p99``, ``mean`` and ``max``; None without any."""
    failures: dict[str, int]
    """What was wrong with those that failed, from the first on, and how often."""
    generator_cpu: float
    """CPU seconds a second of all processes that made the load."""
    generator_busiest: float
    """The same of the busiest of them."""


def summary_of(level: Level, load: Load, shares: Sequence[Share], starts_at: float) -> Summary:
    """Count what all processes saw.

    Args:
        level: all of it.
        load: what was sent.
        shares: of the processes.
        starts_at: when the load began, by ``time.monotonic``.
    """
    measured_from = starts_at + load.warmup
    ends_at = measured_from + load.seconds
    records = sorted((each for share in shares for each in share.records), key=lambda each: each.planned)
    arrived = sum(1 for each in records if each.outcome == ANSWERED and measured_from <= each.done < ends_at)
    sent = [each for each in records if measured_from <= each.planned < ends_at]
    counts = Counter(each.outcome for each in sent)
    return Summary(
        level=level.title,
        clients=level.clients,
        rate=level.rate,
        sent=len(sent),
        answered=counts[ANSWERED],
        refused=counts[REFUSED],
        failed=counts[FAILED],
        requests_per_s=arrived / load.seconds,
        texts_per_s=arrived * len(load.texts[0]) / load.seconds,
        latency_ms=latencies(
            [1000 * (each.done - each.planned) for each in sent if each.outcome == ANSWERED]
        ),
        failures=dict(Counter(str(each.message) for each in sent if each.outcome == FAILED)),
        generator_cpu=sum(share.busy for share in shares),
        generator_busiest=max(share.busy for share in shares),
    )


def latencies(ms: Sequence[float]) -> dict[str, float] | None:
    """Percentiles, mean and maximum; None for none.

    >>> latencies([1.0, 2.0, 3.0])["p50"]
    2.0
    """
    if not ms:
        return None
    values = np.percentile(ms, PERCENTILES).tolist()
    named = {f"p{percentile}": value for percentile, value in zip(PERCENTILES, values, strict=True)}
    return {**named, "mean": sum(ms) / len(ms), "max": max(ms)}
