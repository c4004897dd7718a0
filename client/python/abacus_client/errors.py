"""The one exception of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .messages import Timing


class AbacusError(Exception):
    """A query, or the connection, failed.

    status: a reply's code (INVALID_ARGUMENT, UNKNOWN_MODEL, OVERLOADED, DEADLINE_UNREACHABLE, DEADLINE_EXCEEDED,
        WORKER_FAILED, SHUTTING_DOWN, INTERNAL), or one that the client itself gives: TIMEOUT (no reply in time) and
        UNAVAILABLE (no connection, or the client was closed).
    field: for INVALID_ARGUMENT the offending part of the request, e.g. "inputs[0].shape"; else empty.
    timing: of the reply, when there was one.
    """

    def __init__(self, status: str, message: str, field: str = "", timing: Timing | None = None) -> None:
        super().__init__(f"{status}: {message}" + (f" (field {field})" if field else ""))
        self.status = status
        self.message = message
        self.field = field
        self.timing = timing
