"""A server of one classifier as most people write it, and as it runs best: FastAPI and transformers' ``pipeline``.

    python -m benchmarks.peer.pipeline_server RUN/merged --port 8001

Requests wait in a queue. A thread takes what waits, gives it to the pipeline in batches, and waits 5 ms for more only
where the last time brought more than one. It speaks as text-embeddings-inference: ``POST /predict``, ``GET /health``
and ``GET /info``.

The defaults are the best of what was tried with MiniLM-L6 and texts of AG News on a Xeon with AMX: texts per second of
one core in fp32 48, in bf16 162; in bf16 with up to 128 texts taken and sorted by length 140, with lengths padded to 16
as well 199.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from transformers import pipeline

from leantune.system.hardware import DTYPES, pick_device, pick_precision

BATCH, WAIT_S, MOST_WAITING = 32, 0.005, 512
"""Texts of a batch, how long the thread waits for more, and requests that may wait, as in text-embeddings-inference."""


@dataclass(slots=True)
class Waiting:
    """The texts of one request, and where their scores go."""

    texts: list[str]
    loop: asyncio.AbstractEventLoop
    scores: asyncio.Future[list[Any]]

    def answer(self, scores: list[Any]) -> None:
        self.loop.call_soon_threadsafe(self._set, scores, None)

    def fail(self, error: Exception) -> None:
        self.loop.call_soon_threadsafe(self._set, None, error)

    def _set(self, scores: list[Any] | None, error: Exception | None) -> None:
        if self.scores.done():  # who asked has gone
            return
        if error is None and scores is not None:
            self.scores.set_result(scores)
        else:
            self.scores.set_exception(error or RuntimeError("no scores"))


@dataclass(slots=True)
class Batches:
    """The queue and the thread that empties it."""

    classify: Any
    most: int
    """Texts that are taken at a time; more than `BATCH` of them are sorted by length."""
    settings: dict[str, Any]
    """For the tokenizer."""
    waiting: queue.Queue[Waiting] = field(default_factory=lambda: queue.Queue(MOST_WAITING))

    def work(self) -> None:
        is_busy = False
        while True:
            taken = self.take(is_busy)
            is_busy = len(taken) > 1
            texts = [text for each in taken for text in each.texts]
            try:
                scores = iter(self.scores_of(texts))
            except Exception as error:
                for each in taken:
                    each.fail(error)
                continue
            for each in taken:
                each.answer([next(scores) for _ in each.texts])

    def take(self, is_busy: bool) -> list[Waiting]:
        """What waits, up to so many texts; a request of many texts stays whole."""
        taken = [self.waiting.get()]
        count, until = len(taken[0].texts), time.monotonic() + (WAIT_S if is_busy else 0.0)
        while count < self.most:
            try:
                left = until - time.monotonic()
                each = self.waiting.get(timeout=left) if left > 0 else self.waiting.get_nowait()
            except queue.Empty:
                break
            taken.append(each)
            count += len(each.texts)
        return taken

    def scores_of(self, texts: list[str]) -> list[Any]:
        """The scores of each text in the order of ``texts``."""
        if len(texts) <= BATCH:
            return list(self.classify(texts, batch_size=BATCH, **self.settings))
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found: list[Any] = [None] * len(texts)
        in_order = self.classify([texts[i] for i in order], batch_size=BATCH, **self.settings)
        for i, scores in zip(order, in_order, strict=True):
            found[i] = scores
        return found


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    device = pick_device()
    classify = pipeline(
        "text-classification",
        model=options.model,
        dtype=DTYPES[pick_precision(options.precision, device)],
        device=device,
        top_k=None,
        truncation=True,
    )
    multiple = options.pad_to_multiple_of
    settings = {"padding": True, "pad_to_multiple_of": multiple} if multiple else {}
    batches = Batches(classify, options.most, settings)
    batches.scores_of(["the first batch is slower than all others"] * BATCH)
    threading.Thread(target=batches.work, daemon=True).start()
    app = app_of(batches, vars(options))
    uvicorn.run(
        app, host=options.host, port=options.port, loop="uvloop", http="httptools", log_level="warning"
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peer.pipeline_server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="folder of a transformers classifier")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--precision", choices=("auto", *DTYPES), default="auto")
    parser.add_argument("--most", type=int, default=4 * BATCH, help="texts that are taken at a time")
    parser.add_argument(
        "--pad-to-multiple-of",
        type=int,
        default=16,
        help="of tokens; few shapes mean few compiled kernels on a CPU; 0: to the longest text",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("--threads", type=int, default=cores, help="of torch")
    return parser.parse_args()


def app_of(batches: Batches, settings: dict[str, Any]) -> FastAPI:
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        try:
            inputs = (await request.json())["inputs"]
            texts = [inputs] if isinstance(inputs, str) else [text for (text,) in inputs]
        except (ValueError, LookupError, TypeError):
            return error_of(422, "inputs must be a text, or a list of lists of one text", "Validation")
        if not texts or not all(isinstance(text, str) for text in texts):
            return error_of(422, "inputs must be texts", "Validation")
        loop = asyncio.get_running_loop()
        waiting = Waiting(texts, loop, loop.create_future())
        try:
            batches.waiting.put_nowait(waiting)
        except queue.Full:
            return error_of(429, "Model is overloaded", "Overloaded")
        try:
            scores = await waiting.scores
        except Exception as error:
            return error_of(424, str(error), "Backend")
        return JSONResponse(scores[0] if isinstance(inputs, str) else scores)

    @app.get("/health")
    async def health() -> Response:
        return Response()

    @app.get("/info")
    async def info() -> dict[str, Any]:
        return settings

    return app


def error_of(status: int, message: str, kind: str) -> JSONResponse:
    return JSONResponse({"error": message, "error_type": kind}, status)


if __name__ == "__main__":
    main()
