"""A server as a process: it starts when every classifier was checked, and stops when every request was answered."""

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
"""Connections on which no request comes for so long after the port was closed are closed, too."""


def serve(
    settings: ServeSettings, on_ready: Callable[[str, Service], None] = lambda url, service: None
) -> None:
    """Serve until a signal.

    Args:
        settings: of the server.
        on_ready: told the address and what is served, once every classifier was checked.

    Raises:
        UsageError: if the port is taken.
        CheckpointError: naming the first folder that cannot be served.
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
    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=settings.timeout + 1,
    )
    server = _Server(config, service, bound)
    for number in (signal.SIGINT, signal.SIGTERM):  # until uvicorn does the same
        signal.signal(number, server.handle_exit)
    gc.collect()
    gc.freeze()  # what is here stays: not to be looked through again and again
    gc.set_threshold(10_000, 20, 20)
    bound.listen(config.backlog)
    host, port = bound.getsockname()[:2]
    on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}", service)
    await server.serve(sockets=[bound])


class _Server(uvicorn.Server):
    """Takes requests for some time after SIGTERM, in which it says that it is not ready, so that nobody sends more."""

    def __init__(self, config: uvicorn.Config, service: Service, bound: socket.socket) -> None:
        super().__init__(config)
        self.service, self._bound = service, bound.dup()
        self._signals: list[int] = []
        self._ends_at = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal. The loop acts on it, because a handler runs in the middle of anything, even of a log line."""
        self._signals.append(sig)
        self.force_exit = self.force_exit or self.should_exit  # one more, while it stops

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: begin to drain, or to stop. Ctrl-C stops without waiting for clients to go elsewhere."""
        if self._signals and not self.service.is_draining:
            self.service.is_draining = True
            self._ends_at = time.monotonic() + self.service.settings.drain
            log.info("draining: not ready, requests are answered")
        is_over = self.service.is_draining and time.monotonic() >= self._ends_at
        if is_over or signal.SIGINT in self._signals or len(self._signals) > 1:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, and wait for the requests of all connections that were made before.

        A port that is closed resets connections that nobody has accepted yet, so all of them are accepted first, by a
        copy of the socket that uvicorn does not have. Every answer closes its connection meanwhile (`Draining`).
        """
        self.service.is_draining = True
        for server in self.servers:
            server.close()
        await asyncio.sleep(0.01)  # the loop closes its socket
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
    """A socket at the server's address, so that a port that is taken is said before anything is loaded.

    Raises:
        UsageError: saying why not.
    """
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"{settings.host}:{settings.port}: cannot listen there: {getattr(error, 'strerror', None) or error}; "
            "choose another with --port"
        ) from error
    bound.set_inheritable(False)
    return bound


def _run_in_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` in uvloop's event loop, where that is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)
