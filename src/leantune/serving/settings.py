"""What a server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """How a server listens, computes and refuses."""

    classifiers: tuple[tuple[str, str], ...]
    """Names and folders."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0: any that is free."""
    workers: int = 1
    """Processes that compute; the cores are shared out among them."""
    precision: str | None = None
    """None: as each classifier was trained."""
    api_key: str | None = None
    """What requests must bring; None: nothing."""
    adapter_root: Path | None = None
    """Where adapters may be loaded from while the server runs; None: none may."""
    adapter_memory_bytes: int = 1_500_000_000
    """Memory for adapters in each worker; those that were asked for last stay, the others come back from disk."""
    max_concurrent_requests: int = 512
    """Requests that wait or are computed; more are refused at once."""
    max_batch_tokens: int = 16_384
    """Tokens that are computed at once."""
    max_body_bytes: int = 2_000_000
    max_texts: int = 10_000
    """Texts of one request."""
    timeout_s: float = 30.0
    """Seconds within which a request is answered or refused."""
    drain_s: float = 1.0
    """Seconds after SIGTERM in which requests are still taken, while the server says that it is not ready."""
    auto_truncate: bool = True
    """Whether texts that are too long are cut where a request does not say."""
    logs_texts: bool = False
    """Whether texts are in the log."""
