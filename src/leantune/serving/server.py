"""The server process: it accepts requests once all classifiers are loaded, and answers all of them before it exits."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import uvicorn

from leantune.errors import UsageError
from leantune.serving.app import make_app
from leantune.serving.refusals import RefusalError
from leantune.serving.service import Service
from leantune.serving.settings import ServeSettings

log = logging.getLogger("leantune.serve")

LINGER_SECONDS = 1.0
"""Seconds after closing the port until connections without a request are closed, too."""


def serve(
    settings: ServeSettings, on_ready: Callable[[str, Service], None] = lambda url, service: None
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: settings of the server.
        on_ready: called with the URL and the service once all classifiers are loaded.

    Raises:
        UsageError: if the port is in use, or a classifier cannot be loaded.
    """
    bound = _bound(settings)
    service = Service(settings)
    try:
        _run_in_loop(_run(settings, service, bound, on_ready))
    finally:
        service.stop()
        bound.close()


async def _run(
    settings: ServeSettings, service: Service, bound: socket.socket, on_ready: Callable[[str, Service], None]
) -> None:
    try:
        await service.load_first(settings.classifiers)
    except RefusalError as error:
        raise UsageError(str(error)) from error
    host, port = bound.getsockname()[:2]
    config = uvicorn.Config(
        make_app(service, host),
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=settings.timeout + 1,
    )
    server = _Server(config, service, bound)
    for number in (signal.SIGINT, signal.SIGTERM):  # until uvicorn installs the same handler
        signal.signal(number, server.handle_exit)
    gc.collect()
    gc.freeze()  # these objects stay: spare the collector from scanning them
    gc.set_threshold(10_000, 20, 20)
    bound.listen(config.backlog)
    on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}", service)
    await server.serve(sockets=[bound])


class _Server(uvicorn.Server):
    """A server that reports not ready after SIGTERM, but accepts requests until clients have noticed."""

    def __init__(self, config: uvicorn.Config, service: Service, bound: socket.socket) -> None:
        super().__init__(config)
        self.service, self._bound = service, bound.dup()
        self._signals: list[int] = []
        self._ends_at = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Record a signal. The event loop acts on it, because a handler may interrupt any code, even a log call."""
        self._signals.append(sig)
        self.force_exit = self.force_exit or self.should_exit  # a further signal during shutdown

    async def on_tick(self, counter: int) -> bool:
        """Start draining or stopping if a signal came; called ten times a second. Ctrl-C stops without draining."""
        if self._signals and not self.service.is_draining:
            self.service.is_draining = True
            self._ends_at = time.monotonic() + self.service.settings.drain
            log.info("draining: reporting not ready, still answering requests")
        is_over = self.service.is_draining and time.monotonic() >= self._ends_at
        if is_over or signal.SIGINT in self._signals or len(self._signals) > 1:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port and answer the requests of all connections made before.

        Closing a port resets connections that have not been accepted. All of them are therefore accepted first,
        through a copy of the socket that uvicorn does not close. Meanwhile every answer closes its connection
        (`Draining`).
        """
        self.service.is_draining = True
        for server in self.servers:
            server.close()
        await asyncio.sleep(0.01)  # let the loop close its socket
        self._bound.setblocking(False)
        accepted = []
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted.append(self._bound.accept()[0])
        self._bound.close()
        loop = asyncio.get_running_loop()
        for connection in accepted:
            connection.setblocking(False)
            await loop.connect_accepted_socket(self._protocol, connection)
        deadline = time.monotonic() + LINGER_SECONDS
        while self.server_state.connections and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        made: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def _bound(settings: ServeSettings) -> socket.socket:
    """Return a socket bound to the server's address. It is bound before loading, so that a port in use fails early.

    Raises:
        UsageError: if the address cannot be bound.
    """
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"{settings.host}:{settings.port}: cannot listen on this address: "
            f"{getattr(error, 'strerror', None) or error}; choose another port with --port"
        ) from error
    bound.set_inheritable(False)
    return bound


def _run_in_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` in uvloop's event loop if uvloop is installed, else in asyncio's."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)
