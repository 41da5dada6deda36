"""The service behind all dialects: it takes texts and returns logits, or refuses the request.

Shapes: N texts, C classes of a classifier.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from leantune.data.text.cells import is_encodable
from leantune.data.tokens.tokenization import Encoded, Tokenizer
from leantune.errors import LeantuneError
from leantune.serving.answer import Answer
from leantune.serving.batching import Batch, BatchQueue, Waiting
from leantune.serving.description import Description
from leantune.serving.metrics import Metrics
from leantune.serving.pool import WorkerPool
from leantune.serving.refusals import Kind, RefusalError
from leantune.serving.settings import ServeSettings, name_problem
from leantune.serving.worker import WorkerSettings

log = logging.getLogger("leantune.serve")

UNWATCHED_SECONDS = 0.2
"""Seconds before the server starts to check whether the client is still connected."""
INLINE_CHARACTERS = 4_000
"""Largest number of characters tokenized in the event loop: this takes less time than starting a thread."""


@dataclass(eq=False, slots=True)
class Served:
    """A served classifier. Loading another one under the same name creates a new object."""

    name: str
    number: int
    """The classifier's number in the workers."""
    description: Description
    tokenizer: Tokenizer
    created: int
    """Time of loading in seconds since 1970."""
    num_users: int = 0
    """Number of requests in progress."""
    is_retired: bool = False
    """Whether the classifier was unloaded or replaced and gets no new requests."""


class Service:
    """Classifiers by name, and the workers that compute them.

    Args:
        settings: settings of the server.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.queue = BatchQueue(settings.max_batch_tokens)
        self.metrics = Metrics(self.queue.sizes, lambda: self.num_in_flight)
        workers = WorkerSettings(settings.precision, settings.adapter_memory_mb * 1_000_000, settings.workers)
        self.pool = WorkerPool(workers, settings.workers, self.queue, self._count_batch)
        self.num_in_flight = 0
        self.is_draining = False
        self._served: dict[str, Served] = {}
        self._tokenizers: dict[tuple[str, str], Tokenizer] = {}
        self._last_number = 0
        self._changes = asyncio.Lock()
        """Lock held while a classifier is loaded or unloaded."""

    @property
    def is_ready(self) -> bool:
        """Whether the server accepts classification requests."""
        return not self.is_draining and bool(self._served) and self.pool.is_ready

    @property
    def is_full(self) -> bool:
        """Whether the largest number of concurrent requests is reached."""
        return self.num_in_flight >= self.settings.max_concurrent_requests

    @property
    def names(self) -> list[str]:
        """Names of all classifiers. The first one is the default."""
        return list(self._served)

    def get(self, name: str | None) -> Served:
        """Return the classifier with a name, or the default one for None.

        Raises:
            RefusalError: if no classifier has this name.
        """
        if name is None and self._served:
            return next(iter(self._served.values()))
        if name not in self._served:
            some = ", ".join(self.names[:10]) or "none"
            raise RefusalError(
                Kind.NOT_FOUND, f"The model `{_shown(name or '')}` does not exist. Available models: {some}."
            )
        return self._served[name]

    async def load_first(self, classifiers: Sequence[tuple[str, str]]) -> None:
        """Load the classifiers that the server starts with. A single run is computed by its merged model.

        Raises:
            RefusalError: if a folder cannot be loaded.
        """
        shares = len(classifiers) > 1
        for name, source in classifiers:
            await self.load(name, source, shares=shares)

    async def load(self, name: str, source: str, *, shares: bool = True) -> Served:
        """Load a classifier under a name. A classifier of the same name is replaced after answering its requests.

        Raises:
            RefusalError: if the name is not allowed, or the folder contains no classifier that can be loaded.
        """
        if problem := name_problem(name):
            raise RefusalError(Kind.VALIDATION, problem)
        async with self._changes:
            self._last_number += 1
            number = self._last_number
            description = await asyncio.to_thread(self.pool.open, number, source, shares=shares)
            try:
                tokenizer = await asyncio.to_thread(self._tokenizer, description)
            except LeantuneError as error:
                await asyncio.to_thread(self.pool.close, number)
                raise RefusalError(Kind.BACKEND, str(error)) from error
            served = Served(name, number, description, tokenizer, created=int(time.time()))
            earlier, self._served[name] = self._served.get(name), served
            if earlier is not None:
                await self._retire(earlier)
            return served

    async def unload(self, name: str) -> None:
        """Unload a classifier after its requests in progress are answered.

        Raises:
            RefusalError: if no classifier has this name.
        """
        async with self._changes:
            served = self.get(name)
            del self._served[name]
            await self._retire(served)
            self.metrics.forget(name)

    async def _retire(self, served: Served) -> None:
        served.is_retired = True
        if not served.num_users:
            await asyncio.to_thread(self.pool.close, served.number)

    def _tokenizer(self, description: Description, side: str | None = None) -> Tokenizer:
        """Return the cached tokenizer of a classifier, optionally with another truncation side."""
        key = (description.tokenizer_key, side or "")
        if key not in self._tokenizers:
            folder = Path(description.tokenizer_folder)
            tokenizer = Tokenizer.saved(folder, longest=description.max_length)
            self._tokenizers[key] = tokenizer if side is None else tokenizer.cutting(side)
        return self._tokenizers[key]

    async def classify(
        self,
        served: Served,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        truncate: bool | None = None,
        side: str | None = None,
        until_gone: Callable[[], Awaitable[None]] | None = None,
    ) -> Answer:
        """Compute the logits of N texts.

        Args:
            served: the classifier.
            texts: N texts.
            pairs: N second texts. A classifier of single texts computes them, too, unless the server is strict.
            truncate: whether to truncate long texts instead of refusing them; None for the server's setting.
            side: the side that is truncated, ``left`` or ``right``; None for the side used in training.
            until_gone: returns when the client has disconnected; the request is then dropped.

        Raises:
            RefusalError: if the request is refused.
            ClientGoneError: if the client has disconnected.
        """
        started = time.monotonic()
        if self.is_full:
            raise RefusalError(Kind.OVERLOADED, "Model is overloaded")
        self._check(served, texts, pairs)
        self.num_in_flight += 1
        served.num_users += 1
        try:
            rows = await self._encode(served, texts, pairs, side)
            self._check_lengths(served, rows, truncate)
            tokenized = time.monotonic()
            waiting = Waiting(
                number=served.number,
                group=served.description.group,
                input_ids=rows.input_ids,
                second_starts=rows.second_starts,
                deadline=started + self.settings.timeout,
                loop=asyncio.get_running_loop(),
                done=asyncio.get_running_loop().create_future(),
            )
            self.queue.put(waiting)
            logits = np.stack(await self._wait_for(waiting, until_gone))
        finally:
            self.num_in_flight -= 1
            served.num_users -= 1
            if served.is_retired and not served.num_users:
                await asyncio.to_thread(self.pool.close, served.number)
        if not np.isfinite(logits).all():
            raise RefusalError(
                Kind.BACKEND,
                "the logits are NaN or infinite: the weights are damaged, or overflow in this precision (--precision)",
            )
        ended = time.monotonic()
        taken = waiting.started_at or ended
        return Answer(
            labels=served.description.labels,
            logits=logits,
            thresholds=served.description.thresholds,
            num_tokens=int(rows.lengths.sum()),
            num_truncated=int((rows.full_lengths > rows.lengths).sum()),
            total_s=ended - started,
            tokenization_s=tokenized - started,
            queue_s=taken - tokenized,
            inference_s=ended - taken,
        )

    def _check(self, served: Served, texts: Sequence[str], pairs: Sequence[str] | None) -> None:
        if not texts:
            raise RefusalError(Kind.EMPTY, "`inputs` cannot be empty")
        if len(texts) > self.settings.max_client_batch_size:
            raise RefusalError(
                Kind.TOO_LARGE,
                f"batch size {len(texts)} > maximum allowed batch size {self.settings.max_client_batch_size}",
            )
        expected = served.description.takes_pairs
        if expected is not None and expected != (pairs is not None):
            problem = (
                f"`{served.name}` was trained on {'text pairs' if expected else 'single texts'}, but the request "
                f"contains {'single texts' if expected else 'text pairs'}"
            )
            if expected or self.settings.strict:
                raise RefusalError(Kind.VALIDATION, problem)
            log.warning("%s; answering as text-embeddings-inference does (--strict refuses)", problem)
        for i, text in enumerate((*texts, *(pairs or ()))):
            if not is_encodable(text):
                raise RefusalError(
                    Kind.VALIDATION,
                    f"input {i % len(texts)} contains an unpaired surrogate, which is not a valid character",
                )

    async def _encode(
        self, served: Served, texts: Sequence[str], pairs: Sequence[str] | None, side: str | None
    ) -> Encoded:
        tokenizer = served.tokenizer
        if side is not None and side != tokenizer.settings.truncation_side:
            tokenizer = self._tokenizer(served.description, side)
        try:
            if sum(map(len, texts)) + sum(map(len, pairs or ())) <= INLINE_CHARACTERS:
                return tokenizer.encode(texts, pairs)
            return await asyncio.to_thread(tokenizer.encode, texts, pairs)
        except LeantuneError as error:
            raise RefusalError(Kind.TOKENIZER, str(error)) from error

    def _check_lengths(self, served: Served, rows: Encoded, truncate: bool | None) -> None:
        if truncate or (truncate is None and self.settings.auto_truncate):
            return
        longest = int(rows.full_lengths.max())
        if longest > served.description.max_length:
            raise RefusalError(
                Kind.VALIDATION,
                f"`inputs` must have less than {served.description.max_length} tokens. Given: {longest}",
            )

    async def _wait_for(
        self, waiting: Waiting, until_gone: Callable[[], Awaitable[None]] | None
    ) -> list[npt.NDArray[np.float32]]:
        """Wait for the logits, until the client disconnects or the deadline passes."""
        try:
            # Most answers are so fast that watching the client would cost more than it saves.
            await asyncio.wait([waiting.done], timeout=UNWATCHED_SECONDS)
            if not waiting.done.done():
                await self._watch(waiting, until_gone)
            if waiting.done.done():
                return waiting.done.result()
            raise RefusalError(
                Kind.TIMEOUT,
                f"the request timed out after {self.settings.timeout} s (--timeout); try again later",
            )
        finally:
            waiting.is_gone = True

    async def _watch(self, waiting: Waiting, until_gone: Callable[[], Awaitable[None]] | None) -> None:
        """Wait until there is an answer or the deadline passes.

        Raises:
            ClientGoneError: if the client disconnects first.
        """
        gone = None if until_gone is None else asyncio.ensure_future(until_gone())
        try:
            left = max(0.0, waiting.deadline - time.monotonic())
            tasks: list[asyncio.Future[Any]] = [waiting.done, *([] if gone is None else [gone])]
            await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if gone is not None and gone.done() and not waiting.done.done():
                raise ClientGoneError
        finally:
            if gone is not None:
                gone.cancel()

    def _count_batch(self, batch: Batch, seconds: float) -> None:
        self.metrics.count_batch(len(batch.texts), batch.num_tokens)

    def stop(self) -> None:
        """Stop the workers."""
        self.pool.stop()


class ClientGoneError(Exception):
    """Raised when the client has closed its connection."""


def _shown(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:100]}..."
