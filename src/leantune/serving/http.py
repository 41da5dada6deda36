"""Shared code of the dialects: API key, metrics and request log.

A dialect is a module with a router. Its classification requests go through `answered`.
"""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from leantune.data.label_column import SEPARATOR
from leantune.serving.answer import Answer
from leantune.serving.refusals import Kind, RefusalError
from leantune.serving.service import ClientGoneError, Service

log = logging.getLogger("leantune.serve")

CLIENT_CLOSED_REQUEST = 499
"""Status logged for a request whose client has disconnected."""
RETRY_AFTER_SECONDS = 1
LOGGED_TEXTS, LOGGED_CHARACTERS = 100, 1000
"""Largest number of texts logged per request, and of characters per text."""

Respond = Callable[[RefusalError], Response]
"""Function that formats the answer to a refused request for a dialect."""


def service_of(request: Request) -> Service:
    """Return the service that answers a request."""
    service: Service = request.app.state.service
    return service


async def require_key(
    request: Request,
) -> None:  # a coroutine, because FastAPI runs plain functions in a thread
    """Reject a request without the server's API key.

    Raises:
        RefusalError: if the key is missing or wrong.
    """
    expected = service_of(request).settings.api_key
    if expected is None:
        return
    found = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(found.encode(), expected.encode()):
        raise RefusalError(Kind.UNAUTHORIZED, "Unauthorized: send the header Authorization: Bearer KEY")


async def until_gone(request: Request) -> None:
    """Return when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def answered(
    request: Request,
    model: str,
    method: str,
    texts: Sequence[str],
    work: Callable[[], Awaitable[Answer]],
    respond: Callable[[Answer], Response],
) -> Response:
    """Answer a classification request, and count and log it.

    Args:
        request: the HTTP request.
        model: the name of the classifier.
        method: ``single`` or ``batch``.
        texts: the texts of the request, which are logged if the server was started with ``--log-texts``.
        work: computes the answer.
        respond: formats the answer for the dialect.

    Raises:
        RefusalError: if the request is refused; the dialect formats the error.
    """
    metrics = service_of(request).metrics
    metrics.count_request(method)
    started = time.monotonic()
    try:
        answer = await work()
    except RefusalError as error:
        metrics.count_failure(model, error.kind.status, error.kind.tei_name)
        log_request(request, model, error.kind.status, started, error=str(error))
        raise
    except ClientGoneError:
        metrics.count_failure(model, CLIENT_CLOSED_REQUEST, "gone")
        log_request(request, model, CLIENT_CLOSED_REQUEST, started)
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    metrics.count_answer(model, method, answer)
    more: dict[str, Any] = {"texts": len(texts), "tokens": answer.num_tokens}
    if service_of(request).settings.log_texts:
        chosen = answer.predicted()[:LOGGED_TEXTS]
        more["inputs"] = [text[:LOGGED_CHARACTERS] for text in texts[:LOGGED_TEXTS]]
        more["labels"] = [SEPARATOR.join(answer.labels[i] for i in row.nonzero()[0]) for row in chosen]
    log_request(request, model, 200, started, **more)
    return respond(answer)


def log_request(request: Request, model: str, status: int, started: float, **more: Any) -> None:
    """Log a request as one line of JSON."""
    if log.isEnabledFor(logging.INFO):
        entry = {
            "path": request.url.path,
            "model": model,
            "status": status,
            "ms": round((time.monotonic() - started) * 1000, 2),
            "client": request.client.host if request.client else None,
            **more,
        }
        log.info(json.dumps(entry, ensure_ascii=False))


def refused(error: RefusalError, body: Any, status: int) -> JSONResponse:
    """Return the response for a refused request, with ``Retry-After`` if the server is full."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if error.kind is Kind.OVERLOADED else {}
    if error.kind is Kind.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status, headers=headers)
