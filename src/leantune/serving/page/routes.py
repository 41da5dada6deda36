"""The routes of the page: ``/``, which also answers health checks, and ``/stats``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from leantune.serving.dialects import tei
from leantune.serving.http import service_of

FOLDER = Path(__file__).parent / "files"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
"""Content Security Policy: load from this server only, and never turn text into HTML or script."""
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
"""Headers of the page and its files. The browser revalidates them, so that all files have the same version."""

router = APIRouter(tags=["page"])


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def files() -> StaticFiles:
    """Return the application that serves scripts and styles of the page."""
    return _Files(directory=FOLDER)


@router.get("/", include_in_schema=False)
async def root(request: Request) -> Response:
    """Return the page to a browser, and TEI's health check to other clients."""
    if "text/html" in request.headers.get("accept", ""):
        headers = {**HEADERS, "Content-Security-Policy": POLICY, "Vary": "Accept"}
        return FileResponse(FOLDER / "index.html", headers=headers)
    return await tei.health(request)


@router.get("/stats")
async def stats(request: Request) -> dict[str, Any]:
    """Return the server's statistics: totals since the start, and current requests."""
    service = service_of(request)
    requests, tokens = service.queue.sizes()
    metrics = service.metrics
    return {
        "is_ready": service.is_ready,
        "requests": metrics.num_answered,
        "texts": metrics.num_texts,
        "seconds": metrics.sum_seconds,
        "in_flight": service.num_in_flight,
        "waiting_requests": requests,
        "waiting_tokens": tokens,
        "models": len(service.names),
        "needs_key": service.settings.api_key is not None,
    }
