"""Errors that refuse a request, with a kind that each dialect maps to an HTTP status."""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """The kind of an error: HTTP status and ``error_type`` in text-embeddings-inference (TEI)."""

    EMPTY = (400, "Empty")
    UNAUTHORIZED = (401, "Unauthorized")
    FORBIDDEN = (403, "Forbidden")
    NOT_FOUND = (404, "NotFound")
    TOO_LARGE = (413, "Validation")
    MISDIRECTED = (421, "Validation")
    VALIDATION = (422, "Validation")
    TOKENIZER = (422, "Tokenizer")
    BACKEND = (424, "Backend")
    OVERLOADED = (429, "Overloaded")
    UNHEALTHY = (503, "Unhealthy")
    TIMEOUT = (504, "Timeout")

    @property
    def status(self) -> int:
        """HTTP status in the TEI dialect."""
        return self.value[0]

    @property
    def plain_status(self) -> int:
        """HTTP status in the other dialects: 400 for invalid requests and 500 for failed workers."""
        if self in (Kind.EMPTY, Kind.VALIDATION, Kind.TOKENIZER):
            return 400
        return 500 if self is Kind.BACKEND else self.status

    @property
    def tei_name(self) -> str:
        """The ``error_type`` in the TEI dialect."""
        return self.value[1]


class RefusalError(Exception):
    """Raised when a request is refused.

    Args:
        kind: the kind of error.
        message: text for the client: what was found, what was expected, what to do.
    """

    def __init__(self, kind: Kind, message: str) -> None:
        self.kind = kind
        super().__init__(message)
