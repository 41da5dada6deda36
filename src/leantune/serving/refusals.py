"""Why a request is not answered, in words and by a kind that each dialect has a status for."""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """What was wrong: the status that TEI gives, and its name for it where it has one."""

    EMPTY = (400, "Empty")
    UNAUTHORIZED = (401, "Unauthorized")
    FORBIDDEN = (403, "Forbidden")
    NOT_FOUND = (404, "NotFound")
    TOO_LARGE = (413, "Validation")
    VALIDATION = (422, "Validation")
    TOKENIZER = (422, "Tokenizer")
    BACKEND = (424, "Backend")
    OVERLOADED = (429, "Overloaded")
    UNHEALTHY = (503, "Unhealthy")
    TIMEOUT = (504, "Timeout")

    @property
    def status(self) -> int:
        """Of the answer."""
        return self.value[0]

    @property
    def plain_status(self) -> int:
        """The same in the dialects that have no statuses of their own for bad requests and failed workers."""
        if self in (Kind.EMPTY, Kind.VALIDATION, Kind.TOKENIZER):
            return 400
        return 500 if self is Kind.BACKEND else self.status

    @property
    def tei_name(self) -> str:
        """``error_type`` of TEI."""
        return self.value[1]


class RefusalError(Exception):
    """A request that is not answered.

    Args:
        kind: what was wrong.
        message: what was found, what was expected, what to do.
    """

    def __init__(self, kind: Kind, message: str) -> None:
        self.kind = kind
        super().__init__(message)
