"""One request before the load: what is wrong with the address, the dialect, the model or the key is said at once."""

from __future__ import annotations

import json
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from leantune.errors import UsageError
from leantune.serving.load.connection import Answer, Connections
from leantune.serving.load.dialects import DIALECTS, message_of, problem_of
from leantune.serving.load.event_loop import run
from leantune.serving.load.levels import Load
from leantune.system.messages import listed, nearest, one_line, shown


def check_server(load: Load, url: str) -> dict[str, Any] | None:
    """Send the first request; returns what the server says of itself at ``/info``, if anything.

    A server that refuses it for now, with status 429, may be measured.

    Raises:
        UsageError: nothing answers there, or nothing that can be measured.
    """
    return run(_check(load, url))


async def _check(load: Load, url: str) -> dict[str, Any] | None:
    connections = Connections(load.address)
    try:
        answer = await connections.ask(load.requests()[0], time.monotonic() + load.timeout)
        if problem := await _problem_of(answer, load, connections):
            path = DIALECTS[load.dialect].path(load.model)
            raise UsageError(f"{url}: POST {load.address.prefix}{path}: {problem}")
        return await _get(connections, load, "/info")
    except OSError as error:
        raise UsageError(f"{url}: {_reason(error, load)}") from error
    finally:
        connections.close()


def _reason(error: OSError, load: Load) -> str:
    """Why there was no answer, and what to do."""
    address = load.address
    if isinstance(error, TimeoutError):
        return f"{error} ({load.timeout:g} s): look whether the server is busy, or give a longer --timeout"
    if isinstance(error, socket.gaierror):
        return f"no machine is called {shown(address.host)}: check the address"
    if isinstance(error, ssl.SSLError):
        return f"no secure connection ({one_line(error)}): is it http:// in place of https://?"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens there: start the server, as in: leantune serve RUN --port {address.port}"
    advice = "" if address.is_secure else "; if the server wants https, give an address with https://"
    return f"{one_line(error)}{advice}"


async def _problem_of(answer: Answer, load: Load, connections: Connections) -> str | None:
    """What is wrong with the first answer, and what to do; None if nothing is."""
    if answer.status == 200:
        wrong = problem_of(DIALECTS[load.dialect], answer.body, len(load.texts[0]))
        return wrong and f"{wrong}: {await _dialect_advice(load, connections)}"
    if answer.status == 429:
        return None
    phrase = HTTPStatus(answer.status).phrase if answer.status in set(HTTPStatus) else ""
    found = f"{answer.status} {phrase}".strip()
    if said := message_of(answer.body):
        found += f", {shown(said, 200)}"
    if answer.status in (401, 403):
        return f"{found}: {'the key is another one' if load.key else 'give its key'} (--api-key KEY)"
    if answer.status in (400, 404) and "model" in said.lower():
        return f"{found}: {await _model_advice(load, connections)}"
    if answer.status in (400, 404, 405, 422):
        return f"{found}: {await _dialect_advice(load, connections)}"
    if answer.status == 413:
        return f"{found}: give fewer texts (--texts-per-request), or shorter ones"
    if answer.status == 503:
        return f"{found}: wait until the server is ready"
    return f"{found}: see what the server printed"


async def _dialect_advice(load: Load, connections: Connections) -> str:
    """Which dialect the server speaks, found by asking in the others."""
    for name, dialect in DIALECTS.items():
        if name == load.dialect or (dialect.needs_model and load.model is None):
            continue
        request = replace(load, dialect=name).requests()[0]
        with suppress(OSError):
            answer = await connections.ask(request, time.monotonic() + load.timeout)
            if answer.status == 200 and problem_of(dialect, answer.body, len(load.texts[0])) is None:
                return f"this server speaks another dialect; give --dialect {name}"
    said = DIALECTS[load.dialect].server
    others = ", ".join(name for name in DIALECTS if name != load.dialect)
    return f"expected a server that speaks as {said}; choose --dialect of {others}, or check the address"


async def _model_advice(load: Load, connections: Connections) -> str:
    """The models of the server, where it lists them as vLLM and leantune do."""
    if (answer := await _get(connections, load, "/v1/models")) is None:
        return "give the name of one of its models (--model NAME)"
    with suppress(LookupError, TypeError):
        names = [str(each["id"]) for each in answer["data"]]
        return f"give one of its models with --model: {listed(names)}{nearest(load.model or '', names)}"
    return "give the name of one of its models (--model NAME)"


async def _get(connections: Connections, load: Load, path: str) -> dict[str, Any] | None:
    """What the server says at ``path``; None where it says nothing, or no object."""
    request = load.address.request("GET", path, key=load.key)
    with suppress(OSError, ValueError):
        answer = await connections.ask(request, time.monotonic() + load.timeout)
        found = json.loads(answer.body) if answer.status == 200 else None
        return found if isinstance(found, dict) else None
    return None
