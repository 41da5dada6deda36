"""Counters and times for Prometheus: those that TEI has, under its names, and ours of each classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

from leantune.serving.answer import Answer

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16_384, 65_536)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class _Counts:
    """Counters whose names TEI ends without ``_total``, as the text format allows where no type is said."""

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
            "te_queue_size": (requests, "Requests that wait"),
            "leantune_queue_tokens": (tokens, "Tokens that wait"),
            "leantune_requests_in_flight": (self._num_in_flight(), "Requests that wait or are computed"),
        }
        for name, (value, what) in values.items():
            metric = Metric(name, what, "gauge")
            metric.add_sample(name, {}, value)
            yield metric


class Metrics:
    """All that ``/metrics`` says.

    Args:
        queue_sizes: gives requests and tokens that wait.
        num_in_flight: gives requests that are not answered yet.
    """

    def __init__(self, queue_sizes: Callable[[], tuple[int, int]], num_in_flight: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self._counts = _Counts()
        self.registry.register(self._counts)
        self.registry.register(_Gauges(queue_sizes, num_in_flight))

        def seconds(name: str, what: str) -> Histogram:
            return Histogram(name, what, buckets=SECONDS, registry=self.registry)

        self._total = seconds("te_request_duration", "Seconds from a request to its answer")
        self._tokenization = seconds("te_request_tokenization_duration", "Seconds of tokenizing")
        self._queue = seconds("te_request_queue_duration", "Seconds of waiting for a worker")
        self._inference = seconds("te_request_inference_duration", "Seconds of computing")
        self._predict = seconds("te_predict_duration", "Seconds from a request for classes to its answer")
        self._input_length = Histogram(
            "te_request_input_length", "Tokens of a request", buckets=TOKENS, registry=self.registry
        )
        self._batch_size = Histogram(
            "te_batch_next_size", "Texts of a batch", buckets=TEXTS, registry=self.registry
        )
        self._batch_tokens = Histogram(
            "te_batch_next_tokens", "Tokens of a batch", buckets=TOKENS, registry=self.registry
        )
        self._texts = Counter(
            "leantune_texts", "Texts that were classified", ["model"], registry=self.registry
        )
        self._truncated = Counter(
            "leantune_truncated_texts", "Texts that were cut", ["model"], registry=self.registry
        )
        self._requests = Counter(
            "leantune_requests", "Requests by status", ["model", "status"], registry=self.registry
        )
        self._seconds = Counter(
            "leantune_request_seconds", "Seconds of all answered requests", ["model"], registry=self.registry
        )
        self.num_answered, self.num_texts, self.sum_seconds = 0, 0, 0.0

    def count_request(self, method: str) -> None:
        """A request came in; ``method``: ``single`` or ``batch``."""
        self._counts.add("te_request_count", method=method)
        self._counts.add("te_predict_count")

    def count_answer(self, model: str, method: str, answer: Answer) -> None:
        """A request was answered."""
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
        """A request was refused, after it was counted by `count_request`."""
        self._counts.add("te_request_failure", err=error.lower())
        self._requests.labels(model, str(status)).inc()

    def count_refused(self) -> None:
        """A request was refused because the server is full, before it was read."""
        self._counts.add("te_request_count", method="single")
        self.count_failure("", 429, "Overloaded")

    def count_batch(self, num_texts: int, num_tokens: int) -> None:
        """A batch was computed."""
        self._batch_size.observe(num_texts)
        self._batch_tokens.observe(num_tokens)

    def forget(self, model: str) -> None:
        """Say nothing more of a classifier that was unloaded."""
        for counter in (self._texts, self._truncated, self._seconds):
            counter.remove_by_labels({"model": model})
        self._requests.remove_by_labels({"model": model})

    def text(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self.registry)
