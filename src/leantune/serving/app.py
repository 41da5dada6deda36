"""The application: all dialects on one port, request limits, and errors in the format of each dialect."""

from __future__ import annotations

import ipaddress
import re

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leantune.serving.dialects import open_inference, tei, vllm
from leantune.serving.http import Respond
from leantune.serving.page import routes as page
from leantune.serving.refusals import Kind, RefusalError
from leantune.serving.service import Service
from leantune.serving.settings import ServeSettings
from leantune.system.messages import shown

PATHS_FOR_CLASSES = {"/", "/predict", "/invocations", "/classify", "/v1/classify"}
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
KIND_OF_STATUS = {kind.status: kind for kind in (Kind.UNAUTHORIZED, Kind.FORBIDDEN, Kind.NOT_FOUND)}


def make_app(service: Service, address: str) -> FastAPI:
    """Return the application with all routes.

    Args:
        service: the service that answers requests.
        address: the IP address that the server listens on.
    """
    from leantune._version import __version__

    app: FastAPI = FastAPIOffline(
        redoc_url=None,  # its page loads an image from another server
        static_url="/docs/files",
        title="leantune serve",
        version=__version__,
        description="Text classifiers in three dialects: text-embeddings-inference, vLLM, Open Inference Protocol",
    )
    app.state.service = service
    for module in (page, tei, open_inference):
        app.include_router(module.router)
    for router in (tei.keyed, vllm.router, open_inference.keyed):
        app.include_router(router)
    app.mount("/page", page.files(), name="page")
    app.add_exception_handler(RefusalError, _say_refusal)
    app.add_exception_handler(RequestValidationError, _say_invalid)
    app.add_exception_handler(HTTPException, _say_other)

    @app.get("/metrics", tags=["metrics"])
    async def metrics() -> Response:
        """Counters and times for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.add_middleware(LimitedBody, max_bytes=service.settings.payload_limit)
    app.add_middleware(Refusing, service=service)
    hosts = allowed_hosts(service.settings, address)
    if hosts is not None:
        app.add_middleware(CheckedHost, hosts=hosts)
    app.add_middleware(Draining, service=service)
    return app


def allowed_hosts(settings: ServeSettings, address: str) -> set[str] | None:
    """Return the hosts that requests may name; None if they may name any."""
    if settings.allowed_hosts is not None:
        named = {_host_of(each.strip()) for each in settings.allowed_hosts.split(",") if each.strip()}
        return None if "*" in named else named
    is_private = settings.api_key is None and ipaddress.ip_address(address).is_loopback
    return {*LOOPBACK_NAMES, address, settings.host.lower()} if is_private else None


def _host_of(header: str) -> str:
    """Return the host in a ``Host`` header, without its port and the brackets of an IPv6 address."""
    found = re.fullmatch(r"\[(.*)\](?::\d*)?|([^:]*):\d*", header)
    return ((found[1] or found[2]) if found else header).lower()


class CheckedHost:
    """Middleware that rejects requests to other hosts.

    A web site can point its own name to 127.0.0.1 (DNS rebinding). Its scripts could then read what this server
    answers, but the browser still sends the site's name.
    """

    def __init__(self, app: ASGIApp, hosts: set[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        headers = scope["headers"] if scope["type"] == "http" else ()
        named = [value.decode("latin-1") for name, value in headers if name == b"host"]
        other = next((each for each in named if _host_of(each) not in self.hosts), None)
        if other is None:
            await self.app(scope, receive, send)
            return
        error = RefusalError(
            Kind.MISDIRECTED, f"the Host header names {shown(other)}: allow this name with --allowed-hosts"
        )
        await respond_for(scope["path"])(error)(scope, receive, send)


def respond_for(path: str) -> Respond:
    """Return the function that formats errors for the dialect of a path."""
    if path.startswith("/v2"):
        return open_inference.respond
    return vllm.respond if path.startswith(("/v1", "/classify")) else tei.respond


async def _say_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusalError)
    return respond_for(request.url.path)(error)


async def _say_invalid(request: Request, error: Exception) -> Response:
    """Report the first validation error of a body and its place, without the content of the body."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    message = f"{place}: {first['msg']}" if place else str(first["msg"])
    return respond_for(request.url.path)(RefusalError(Kind.VALIDATION, message[:500]))


async def _say_other(request: Request, error: Exception) -> Response:
    """Report an error of the framework: unknown path, wrong method, or a body that cannot be parsed."""
    assert isinstance(error, HTTPException)
    kind = KIND_OF_STATUS.get(error.status_code, Kind.VALIDATION)
    message = f"{error.detail}: {request.method} {request.url.path[:200]}"
    response = respond_for(request.url.path)(RefusalError(kind, message))
    response.status_code = error.status_code
    response.headers.update(error.headers or {})
    return response


class Refusing:
    """Middleware that rejects classification requests while the server is full, before reading them."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        asks = scope["type"] == "http" and scope["method"] == "POST" and _is_for_classes(scope["path"])
        if not asks or not self.service.is_full:
            await self.app(scope, receive, send)
            return
        self.service.metrics.count_refused()
        error = RefusalError(Kind.OVERLOADED, "Model is overloaded")
        await respond_for(scope["path"])(error)(scope, receive, send)


def _is_for_classes(path: str) -> bool:
    return path in PATHS_FOR_CLASSES or (path.startswith("/v2/") and path.endswith("/infer"))


class LimitedBody:
    """Middleware that reads the body of a request and rejects a body that is too large."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        parts, size = [], int(said) if said.isdigit() else 0
        more = size <= self.max_bytes
        received = 0
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))
            received += len(parts[-1])
            size = max(size, received)
            more = message.get("more_body", False) and size <= self.max_bytes
        if size > self.max_bytes:
            error = RefusalError(
                Kind.TOO_LARGE,
                f"the request body exceeds the server's limit of {self.max_bytes:,} bytes (--payload-limit)",
            )
            response = respond_for(scope["path"])(error)
            response.headers["Connection"] = "close"  # the rest of the body is not read
            await response(scope, receive, send)
            return
        await self.app(scope, _replayed(b"".join(parts), receive), send)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a channel that first gives the whole body and then continues with `receive`."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return messages.pop() if messages else await receive()

    return give


class Draining:
    """Middleware that closes the connection after each answer while the server is shutting down."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or not self.service.is_draining:
            await self.app(scope, receive, send)
            return

        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self.app(scope, receive, send_last)
