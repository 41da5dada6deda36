"""One level of load for a server, by locust: ``python -m benchmarks.load < SETTINGS.json``.

Each request has one text in the form of text-embeddings-inference. Either ``clients`` send the next one when they have
their answer, or requests come at a constant ``rate`` a second on average, at random times, whether earlier ones are
answered or not. Prints what came back, as JSON.

Latencies count from the moment at which a request was to be sent. They are not taken from locust's statistics, which
round them to milliseconds.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import gevent
import numpy as np
from locust import FastHttpUser, task
from locust.env import Environment
from locust.exception import StopUser

START_S = 0.5
"""In which all clients are there."""
TIMEOUT_S = 60.0
MOST_OPEN = 4096
"""Requests that may wait for their answers at a time."""
PERCENTILES = (50, 95, 99)
REFUSED = "status 429"


@dataclass(frozen=True, slots=True)
class Request:
    """One that was sent."""

    planned: float
    done: float
    problem: str | None
    """What was wrong; None: it was answered."""

    @property
    def outcome(self) -> str:
        """``answered``, ``refused`` or ``failed``."""
        return {None: "answered", REFUSED: "refused"}.get(self.problem, "failed")


class Client(FastHttpUser):
    """What both kinds have in common; `main` says what they send, from when on and until when."""

    abstract = True
    connection_timeout = network_timeout = TIMEOUT_S
    texts: Iterator[str]
    requests: list[Request]
    starts_at: float
    ends_at: float
    rate: float | None
    seed: int

    def send(self, planned: float) -> None:
        """Send the next text, and note what became of it."""
        answer = self.client.post("/predict", json={"inputs": next(self.texts)})
        self.requests.append(Request(planned, time.perf_counter(), problem_of(answer)))


class WaitingClient(Client):
    """Sends a request when the last one is answered."""

    @task
    def send_all(self) -> None:
        sleep_until(self.starts_at)
        while (now := time.perf_counter()) < self.ends_at:
            self.send(now)
        raise StopUser


class Crowd(Client):
    """Sends requests at random times, whether others are answered or not."""

    concurrency = MOST_OPEN

    @task
    def send_all(self) -> None:
        assert self.rate is not None
        rng, planned, sent = random.Random(self.seed), self.starts_at, []
        while (planned := planned + rng.expovariate(self.rate)) < self.ends_at:
            sleep_until(planned)
            sent.append(gevent.spawn(self.send, planned))
        gevent.joinall(sent, raise_error=True)
        raise StopUser


def sleep_until(moment: float) -> None:
    gevent.sleep(max(0.0, moment - time.perf_counter()))


def problem_of(answer: Any) -> str | None:
    """What is wrong with an answer; None if it classifies a text."""
    if answer.status_code == 0:
        return f"no answer: {answer.error}"
    try:
        found = json.loads(answer.text)
        if answer.status_code != 200:
            return REFUSED if answer.status_code == 429 else f"status {answer.status_code}: {found['error']}"
        scores = found[0] if isinstance(found[0], list) else found
        return None if scores[0]["label"] is not None else "no label"
    except (ValueError, LookupError, TypeError):
        return f"status {answer.status_code}: {answer.text[:200]}"


def main() -> None:
    settings = json.load(sys.stdin)
    clients, rate = settings.get("clients"), settings.get("rate")
    kind = WaitingClient if rate is None else Crowd
    kind.texts, kind.requests = cycle(settings["texts"]), []
    kind.rate, kind.seed = rate, settings.get("seed", 0)
    kind.starts_at = time.perf_counter() + START_S
    measured_from = kind.starts_at + settings["warmup"]
    kind.ends_at = measured_from + settings["seconds"]
    environment = Environment(user_classes=[kind], host=settings["url"], catch_exceptions=False)
    runner = environment.create_local_runner()
    count = clients if rate is None else 1
    runner.start(count, spawn_rate=count)
    sleep_until(measured_from)
    cpu_s = time.process_time()
    sleep_until(kind.ends_at)
    cpu_s = time.process_time() - cpu_s
    runner.user_greenlets.join(raise_error=True)
    runner.quit()
    found = summary_of(kind.requests, measured_from, kind.ends_at)
    level = {"clients": clients, "rate": rate, "generator_cpu": cpu_s / settings["seconds"]}
    print(json.dumps({**level, **found}))


def summary_of(requests: Sequence[Request], measured_from: float, ends_at: float) -> dict[str, Any]:
    """What the requests of a span came to.

    ``sent`` counts those that were to be sent in it, and is the sum of ``answered``, ``refused`` and ``failed``; their
    latencies count until the answer, even after it. ``requests_per_s`` counts the answers that came in it.
    """
    sent = [each for each in requests if measured_from <= each.planned < ends_at]
    counts = Counter(each.outcome for each in sent)
    arrived = sum(each.problem is None and measured_from <= each.done < ends_at for each in requests)
    ms = [1000 * (each.done - each.planned) for each in sent if each.problem is None]
    latency = None
    if ms:
        latency = dict(
            zip((f"p{each}" for each in PERCENTILES), np.percentile(ms, PERCENTILES).tolist(), strict=True)
        )
        latency |= {"mean": sum(ms) / len(ms), "max": max(ms)}
    rate = arrived / (ends_at - measured_from)
    return {
        "sent": len(sent),
        **{outcome: counts[outcome] for outcome in ("answered", "refused", "failed")},
        **{"requests_per_s": rate, "texts_per_s": rate, "latency_ms": latency},
        "failures": dict(Counter(each.problem for each in sent if each.outcome == "failed")),
    }


if __name__ == "__main__":
    main()
