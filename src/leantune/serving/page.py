"""The page at ``/`` for browsers, and the figures that it shows. Health checks ask for ``/`` as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

from leantune.serving import tei
from leantune.serving.http import service_of

FOLDER = Path(__file__).parent / "page_files"
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
"""What the page may load: what this server has."""

router = APIRouter(tags=["page"])


def files() -> StaticFiles:
    """Scripts and styles of the page."""
    return StaticFiles(directory=FOLDER)


@router.get("/", include_in_schema=False)
async def root(request: Request) -> Response:
    """The page for a browser; for others whether requests are wanted, as TEI."""
    if "text/html" in request.headers.get("accept", ""):
        return FileResponse(FOLDER / "index.html", headers={"Content-Security-Policy": POLICY})
    return await tei.health(request)


@router.get("/stats")
async def stats(request: Request) -> dict[str, Any]:
    """What the page shows of the server's work: sums since it started."""
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
