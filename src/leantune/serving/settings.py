"""Settings of a server; most are flags of ``leantune serve``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from leantune.config.option import option
from leantune.config.recipe import PRECISIONS
from leantune.system.messages import shown

MAX_NAME_CHARACTERS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Settings of a server: address, workers, limits and access."""

    classifiers: tuple[tuple[str, str], ...]
    """Name and folder of each classifier."""
    host: str = option("address to listen on", "127.0.0.1")
    port: int = option("port to listen on; 0 picks a free one", 8000, least=0)
    workers: int = option("worker processes, which share the cores", 1, group="computing")
    precision: str | None = option(
        "precision of the encoder; default: as each classifier was trained; int8 for merged models only",
        None,
        choices=PRECISIONS,
        group="computing",
    )
    max_batch_tokens: int = option("tokens in one batch", 16_384, group="computing")
    adapter_memory_mb: int = option(
        "memory per worker for adapters, in MB; the least recently used move to disk", 1500, group="computing"
    )
    max_concurrent_requests: int = option(
        "requests in progress; further requests get HTTP 429", 512, group="limits"
    )
    payload_limit: int = option("largest request body, in bytes", 2_000_000, group="limits")
    max_client_batch_size: int = option("texts in one request", 10_000, group="limits")
    timeout: int = option("seconds until a request fails with HTTP 504", 30, group="limits")
    auto_truncate: bool = option(
        "refuse texts that are too long instead of cutting them", True, group="limits"
    )
    strict: bool = option(
        "refuse text pairs for a classifier that was trained on single texts", False, group="limits"
    )
    drain: int = option(
        "seconds after SIGTERM in which requests are still accepted", 1, least=0, group="limits"
    )
    log_texts: bool = option("log the texts of requests and their labels", False, group="limits")
    api_key: str | None = option(
        "key that requests must carry; default: the environment variable LEANTUNE_API_KEY, or no key",
        None,
        group="access",
    )
    adapter_root: Path | None = option(
        "folder from which clients with the key may load adapters", None, group="access"
    )
    allowed_hosts: str | None = option(
        "hosts that requests may name in their Host header, or * for all; default: localhost, 127.0.0.1 and [::1] on a "
        "loopback address without a key, else all",
        None,
        metavar="NAME,NAME",
        group="access",
    )


def name_problem(name: str) -> str:
    """Return what is wrong with the name of a classifier; empty if it can be served under this name.

    >>> name_problem("team-a/spam_v1.2"), name_problem("a/../b")
    ('', "the name 'a/../b' has the segment '..'; name the classifier otherwise")
    """
    if len(name) > MAX_NAME_CHARACTERS:
        return f"the name {shown(name)} has {len(name)} characters; at most {MAX_NAME_CHARACTERS} are allowed"
    if wrong := re.search(r"[^A-Za-z0-9._/-]", name):
        return f"the name {shown(name)} has the character {wrong[0]!r}; use only a-z, A-Z, 0-9, and . _ - /"
    part = next((part for part in name.split("/") if part in ("", ".", "..")), None)
    return (
        ""
        if part is None
        else f"the name {shown(name)} has the segment {part!r}; name the classifier otherwise"
    )
