"""Prometheus metrics: the metrics of text-embeddings-inference (TEI) under its names, and metrics per classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

from leantune.serving.answer import Answer

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16_384, 65_536)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class _Counts:
    """Counters with TEI's names, which lack ``_total``; the text format allows this only for an unknown type."""

    def __init__(self) -> None:
        self._values: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}

    def add(self, name: str, **labels: str) -> None:
        values = self._values.setdefault(name, {})
        key = tuple(labels.items())
        values[key] = values.get(key, 0) + 1

    def collect(self) -> Iterable[Metric]:
        for name, values in self._values.items():
            metric = Metric(name, f"{name} of text-embeddings-inference", "unknown")
            for labels, value in values.items():
                metric.add_sample(name, dict(labels), value)
            yield metric


class _Gauges:
    def __init__(self, queue_sizes: Callable[[], tuple[int, int]], num_in_flight: Callable[[], int]) -> None:
        self._queue_sizes, self._num_in_flight = queue_sizes, num_in_flight

    def collect(self) -> Iterable[Metric]:
        requests, tokens = self._queue_sizes()
        values = {
            "te_queue_size": (requests, "Waiting requests"),
            "leantune_queue_tokens": (tokens, "Tokens of waiting requests"),
            "leantune_requests_in_flight": (self._num_in_flight(), "Requests waiting or being computed"),
        }
        for name, (value, what) in values.items():
            metric = Metric(name, what, "gauge")
            metric.add_sample(name, {}, value)
            yield metric


class Metrics:
    """The metrics at ``/metrics``.

    Args:
        queue_sizes: returns the numbers of waiting requests and waiting tokens.
        num_in_flight: returns the number of requests in progress.
    """

    def __init__(self, queue_sizes: Callable[[], tuple[int, int]], num_in_flight: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self._counts = _Counts()
        self.registry.register(self._counts)
        self.registry.register(_Gauges(queue_sizes, num_in_flight))

        def seconds(name: str, what: str) -> Histogram:
            return Histogram(name, what, buckets=SECONDS, registry=self.registry)

        self._total = seconds("te_request_duration", "Seconds from a request to its answer")
        self._tokenization = seconds("te_request_tokenization_duration", "Seconds of tokenization")
        self._queue = seconds("te_request_queue_duration", "Seconds in the queue")
        self._inference = seconds("te_request_inference_duration", "Seconds of inference")
        self._predict = seconds("te_predict_duration", "Seconds from a classification request to its answer")
        self._input_length = Histogram(
            "te_request_input_length", "Tokens per request", buckets=TOKENS, registry=self.registry
        )
        self._batch_size = Histogram(
            "te_batch_next_size", "Texts per batch", buckets=TEXTS, registry=self.registry
        )
        self._batch_tokens = Histogram(
            "te_batch_next_tokens", "Tokens per batch", buckets=TOKENS, registry=self.registry
        )
        self._texts = Counter("leantune_texts", "Classified texts", ["model"], registry=self.registry)
        self._truncated = Counter(
            "leantune_truncated_texts", "Truncated texts", ["model"], registry=self.registry
        )
        self._requests = Counter(
            "leantune_requests", "Requests by status", ["model", "status"], registry=self.registry
        )
        self._seconds = Counter(
            "leantune_request_seconds",
            "Total seconds of answered requests",
            ["model"],
            registry=self.registry,
        )
        self.num_answered, self.num_texts, self.sum_seconds = 0, 0, 0.0

    def count_request(self, method: str) -> None:
        """Count a request; ``method`` is ``single`` or ``batch``."""
        self._counts.add("te_request_count", method=method)
        self._counts.add("te_predict_count")

    def count_answer(self, model: str, method: str, answer: Answer) -> None:
        """Count an answered request."""
        self._counts.add("te_request_success", method=method)
        self._counts.add("te_predict_success")
        self._total.observe(answer.total_s)
        self._predict.observe(answer.total_s)
        self._tokenization.observe(answer.tokenization_s)
        self._queue.observe(answer.queue_s)
        self._inference.observe(answer.inference_s)
        self._input_length.observe(answer.num_tokens)
        self._texts.labels(model).inc(len(answer.logits))
        self._truncated.labels(model).inc(answer.num_truncated)
        self._requests.labels(model, "200").inc()
        self._seconds.labels(model).inc(answer.total_s)
        self.num_answered += 1
        self.num_texts += len(answer.logits)
        self.sum_seconds += answer.total_s

    def count_failure(self, model: str, status: int, error: str) -> None:
        """Count a refused request that `count_request` has counted before."""
        self._counts.add("te_request_failure", err=error.lower())
        self._requests.labels(model, str(status)).inc()

    def count_refused(self) -> None:
        """Count a request that was refused unread because the server is full."""
        self._counts.add("te_request_count", method="single")
        self.count_failure("", 429, "Overloaded")

    def count_batch(self, num_texts: int, num_tokens: int) -> None:
        """Count a computed batch."""
        self._batch_size.observe(num_texts)
        self._batch_tokens.observe(num_tokens)

    def forget(self, model: str) -> None:
        """Remove the metrics of an unloaded classifier."""
        for counter in (self._texts, self._truncated, self._seconds):
            counter.remove_by_labels({"model": model})
        self._requests.remove_by_labels({"model": model})

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
