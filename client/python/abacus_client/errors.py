"""The one exception of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .messages import Timing


# Of replies, in the order of their numbers (base/status.h).
STATUSES = (
    "OK",
    "INVALID_ARGUMENT",
    "UNKNOWN_MODEL",
    "OVERLOADED",
    "DEADLINE_UNREACHABLE",
    "DEADLINE_EXCEEDED",
    "WORKER_FAILED",
    "SHUTTING_DOWN",
    "INTERNAL",
    "CANCELLED",
)


class AbacusError(Exception):
    """A query, or the connection, failed.

    status: a reply's code (INVALID_ARGUMENT, UNKNOWN_MODEL, OVERLOADED, DEADLINE_UNREACHABLE, DEADLINE_EXCEEDED,
        WORKER_FAILED, SHUTTING_DOWN, INTERNAL, CANCELLED), or one that the client itself gives: TIMEOUT (no reply in
        time) and UNAVAILABLE (no connection, or the client was closed or belongs to another process). The client gives
        INVALID_ARGUMENT, too, for what it does not send.
    field: for INVALID_ARGUMENT the offending part of the request, e.g. "inputs[0].shape"; else empty.
    timing: of the reply, when there was one.

    It can be pickled with all of these, and so crosses the border of a process pool.
    """

    def __init__(self, status: str, message: str, field: str = "", timing: Timing | None = None) -> None:
        super().__init__(f"{status}: {message}" + (f" (field {field})" if field else ""))
        self.status = status
        self.message = message
        self.field = field
        self.timing = timing

    def __reduce__(self) -> tuple[Any, ...]:
        # The inherited one would call the class with the one text that str() shows.
        return type(self), (self.status, self.message, self.field, self.timing), self.__dict__
