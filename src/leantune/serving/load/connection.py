"""Requests over connections that stay open.

The load generator runs beside the server and must leave it the processor. A request costs it 11 microseconds in this
way on a Xeon core, 190 with aiohttp, 900 with httpx, and 5,000 with 64 connections of httpx.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools

from leantune.errors import UsageError, first_line
from leantune.system.messages import shown

MAX_CONNECTIONS = 900
"""Of a process at a time: most systems allow it 1,024 open files. A request for which none is left waits, and its time
runs."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is."""

    host: str
    port: int
    prefix: str
    """Of every path; empty in most cases."""
    is_secure: bool

    @classmethod
    def of(cls, url: str) -> Address:
        """That of ``http://host:port/prefix``; without a scheme it is http.

        Raises:
            UsageError: if it is no such address.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        is_plain = url.isascii() and url.isprintable() and " " not in url and not parts.query
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or not is_plain:
            raise UsageError(
                f"{shown(url)} is no address of a server, expected one like http://127.0.0.1:8000"
            )
        is_secure = parts.scheme == "https"
        return cls(
            parts.hostname, port or (443 if is_secure else 80), parts.path.rstrip("/"), is_secure=is_secure
        )

    def request(self, method: str, path: str, body: bytes = b"", *, key: str | None = None) -> bytes:
        """The bytes of a request with a body of JSON."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [
            f"{method} {self.prefix}{path} HTTP/1.1",
            f"Host: {host}:{self.port}",
            "Accept: application/json",
            *([f"Authorization: Bearer {key}"] if key else []),
            *(["Content-Type: application/json"] if body else []),
            f"Content-Length: {len(body)}",
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes
    arrived: float
    """When its last byte did, by ``time.monotonic``."""


class Connection(asyncio.Protocol):
    """One connection, which carries one request at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._body: list[bytes] = []
        self._has_heard = False

    async def ask(self, request: bytes, seconds: float) -> Answer:
        """Send ``request`` and wait for its answer.

        Raises:
            StaleConnectionError: the server closed the connection before it saw the request, as it may at any time.
            ConnectionError: it closed the connection later, or does not speak HTTP.
            TimeoutError: no answer after so many seconds.
        """
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        self._answer, self._body, self._has_heard = loop.create_future(), [], False
        self._parser = httptools.HttpResponseParser(self)
        timer = loop.call_later(seconds, self._fail, TimeoutError("no answer in time"))
        try:
            self._transport.write(request)
            return await self._answer
        finally:
            timer.cancel()
            if self._answer.cancelled():
                self.close()

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # one of a TCP connection can be written to; uvloop's is no subclass of anything
        self._transport, self.is_open = cast(asyncio.Transport, transport), True

    def data_received(self, data: bytes) -> None:
        self._has_heard = True
        if self._parser is None:  # nothing was asked
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"what came back is not HTTP ({first_line(error)})"))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        assert self._answer is not None
        answer = Answer(self._parser.get_status_code(), b"".join(self._body), time.monotonic())
        if not self._parser.should_keep_alive():
            self.close()
        if not self._answer.done():
            self._answer.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        kind = ConnectionError if self._has_heard else StaleConnectionError
        self._fail(kind("the server closed the connection instead of an answer"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.close()


class StaleConnectionError(ConnectionError):
    """A connection that the server closed before it answered anything."""


@dataclass(slots=True)
class Connections:
    """Those to one server; one that is idle is used again, as by every client."""

    address: Address
    most: int = MAX_CONNECTIONS
    _idle: list[Connection] = field(default_factory=list)
    _free: asyncio.Semaphore = field(init=False)
    _tls: ssl.SSLContext | None = field(init=False)

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(self.most)
        self._tls = ssl.create_default_context() if self.address.is_secure else None

    async def ask(self, request: bytes, until: float) -> Answer:
        """Send ``request`` and wait for its answer until then, by ``time.monotonic``.

        Raises:
            OSError: no connection, or no answer.
        """
        async with self._free:
            while self._idle:
                connection = self._idle.pop()
                if connection.is_open:
                    try:
                        return await self._ask(connection, request, until)
                    except StaleConnectionError:
                        break
            return await self._ask(await self._open(until), request, until)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _ask(self, connection: Connection, request: bytes, until: float) -> Answer:
        answer = await connection.ask(request, max(0.0, until - time.monotonic()))
        if connection.is_open:
            self._idle.append(connection)
        return answer

    async def _open(self, until: float) -> Connection:
        loop = asyncio.get_running_loop()
        opening = loop.create_connection(Connection, self.address.host, self.address.port, ssl=self._tls)
        try:
            _, connection = await asyncio.wait_for(opening, max(0.0, until - time.monotonic()))
        except asyncio.TimeoutError as error:  # another class before Python 3.11
            raise TimeoutError("no connection in time") from error
        return connection
