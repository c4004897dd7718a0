"""The client: one connection to one controller.

Thread rule: every method may be called from any thread. One background thread owns the socket; callers hand it frames
and get futures. Callbacks added to a future run on that thread and must not block.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, NoReturn

import numpy as np

from . import leases, messages
from .connection import Connection
from .durations import Duration, qos_microseconds, timeout_seconds
from .errors import AbacusError
from .leases import LeasedArray, Span
from .messages import Health, ModelDescription, Query, Reply, Result

_CONNECT_TIMEOUT_S = 5.0
_RECEIVE_TIMEOUT_S = 30.0
_MAX_SIZE = 2**32 - 1  # of a synthetic query's batch and sequence


class Client:
    def __init__(
        self,
        address: str,
        connect_timeout_s: Duration = _CONNECT_TIMEOUT_S,
        receive_timeout_s: Duration = _RECEIVE_TIMEOUT_S,
        *,
        connect_timeout: Duration | None = None,
        receive_timeout: Duration | None = None,
    ) -> None:
        """Connects to a ZeroMQ endpoint such as "tcp://127.0.0.1:5570", "tcp://[::1]:5570" or "tcp://host:5570".

        connect_timeout: longest wait for the controller's first answer, such as "5s"; then AbacusError (UNAVAILABLE).
            The models need not be ready by then, health() tells.
        receive_timeout: longest wait for a reply, from the submission of its query, such as "30s"; that query alone
            then fails with TIMEOUT. Choose it well above the latency targets: the controller answers late queries by
            itself.

        Both may be a text with a unit, a timedelta or math.inf for no limit; connect_timeout_s and receive_timeout_s
        are the same as a number of seconds. What is not longer than zero is refused with INVALID_ARGUMENT.

        A client lives until close(), or until nobody holds it and its last query is answered. It belongs to the process
        that made it: a forked child makes one of its own, and a client cannot be pickled.
        """
        if not isinstance(address, str):
            raise AbacusError("INVALID_ARGUMENT", f"address {address!r} is no text", "address")
        first_s = _timeout("connect_timeout", connect_timeout, connect_timeout_s, _CONNECT_TIMEOUT_S)
        self._receive_timeout_s = _timeout("receive_timeout", receive_timeout, receive_timeout_s, _RECEIVE_TIMEOUT_S)
        self.address = address
        self._connection = Connection(address)
        self._abandon = weakref.finalize(self, Connection.abandon, self._connection)
        self._abandon.atexit = False  # connections end by themselves then
        try:
            # One round trip, so that a wrong address is an error here and not the timeout of the first query.
            self._ask("health", lambda reply: reply.health, first_s)
        except AbacusError as error:
            self.close()
            raise AbacusError("UNAVAILABLE", f"{error.message}; is an Abacus controller listening there?") from error
        except BaseException:  # Ctrl-C
            self.close()
            raise

    def submit(
        self,
        model: str,
        inputs: Mapping[str, object],
        qos_us: Duration = 0,
        *,
        qos: str | timedelta | None = None,
        outputs: np.ndarray | None = None,
    ) -> Future[Result]:
        """Sends a query; the future gives a Result or raises AbacusError. Its cancel() takes the query back.

        inputs: name -> array, torch tensor, or (uint16 array, "bfloat16"). The array's memory is sent without a copy
            where it is row-major: leave it unchanged until the future is done. What lies in a lease of this client
            and is row-major does not travel at all.
        qos: latency target from "1us" to "1h", such as "50ms" or a timedelta; qos_us is the same as a number of
            microseconds. Without them, or with 0: the service's own.
        outputs: a dense array in a lease of this client, of any shape and type: the server writes the outputs there,
            and those of the Result are views of it. Each begins at a multiple of 64 bytes from the begin. Until the
            reply is there, that memory is the query's alone, even when nobody waits for it any more (a time limit that
            passed, cancel()); a query that names it meanwhile is refused.

        What cannot be sent is refused here, with AbacusError (INVALID_ARGUMENT): that query alone, the others go on.
        """
        target_us = qos_microseconds(qos, qos_us)
        _check_text(model, "model")
        try:
            inputs = dict(inputs)
        except (TypeError, ValueError) as error:
            raise AbacusError("INVALID_ARGUMENT", f"inputs map names to arrays: {error}", "inputs") from error
        for i, name in enumerate(inputs):
            _check_text(name, f"inputs[{i}].name")
        self._connection.check_usable()
        request_id = self._connection.next_id()
        block = self._block(outputs) if outputs is not None else None
        query = messages.encode_infer(request_id, model, inputs, target_us, self._connection.leases, block)
        self._check_size(list(inputs), query)
        return self._submit(request_id, query, f"query for {model}")

    def submit_synthetic(
        self,
        model: str,
        batch: int = 1,
        sequence: int = 0,
        qos_us: Duration = 0,
        *,
        qos: str | timedelta | None = None,
    ) -> Future[Result]:
        """A query without tensors: the worker runs on an input of its own and returns no outputs. For load tests."""
        target_us = qos_microseconds(qos, qos_us)
        _check_text(model, "model")
        batch = _whole(batch, "synthetic.batch", 1)
        sequence = _whole(sequence, "synthetic.sequence", 0)
        self._connection.check_usable()
        request_id = self._connection.next_id()
        query = messages.encode_synthetic(request_id, model, batch, sequence, target_us)
        return self._submit(request_id, query, f"synthetic query for {model}")

    def infer(
        self,
        model: str,
        inputs: Mapping[str, object],
        qos_us: Duration = 0,
        *,
        qos: str | timedelta | None = None,
        outputs: np.ndarray | None = None,
    ) -> Result:
        """submit() and wait. Ctrl-C ends the waiting, not the query; the client goes on."""
        return self.submit(model, inputs, qos_us, qos=qos, outputs=outputs).result()

    def lease(self, shape_or_bytes: int | Sequence[int], dtype: Any = np.uint8) -> LeasedArray:
        """A writable array, of zeros, in memory that this client shares with the server.

        Queries send no copy of an array that lies in it (itself, or a dense part of it); nothing else changes for them.
        For clients on the server's machine and of its user (or root). One lease that is used again and again is what
        pays: making one takes a round trip.

        shape_or_bytes: a shape, or a number of elements; of bytes for the uint8 that is the default.

        It is given back by its close(), at the end of a `with` block, when no array lies in it any more, and when the
        client is closed; queries in flight that use it are answered first, and its arrays stay usable as ordinary ones.
        When the server goes away, they do, too: they are sent like any other from then on, until there is a new lease.

        AbacusError: UNAVAILABLE where the server gives none or is on another machine, OVERLOADED where the leases of
        this client together would be larger than it allows, INVALID_ARGUMENT for a shape or type that is none, or one
        lease larger than that.
        """
        shape, numpy_dtype = leases.as_shape(shape_or_bytes, dtype)
        self._connection.check_usable()
        path = leases.socket_path(self.address, self._connection.lease_path)
        return self._connection.leases.add(path, shape, numpy_dtype, self._receive_timeout_s)

    def models(self) -> list[ModelDescription]:
        return self._ask("models", lambda reply: list(reply.models), self._receive_timeout_s)

    def health(self) -> Health:
        return self._ask("health", lambda reply: reply.health, self._receive_timeout_s)

    def close(self) -> None:
        """Fails what is in flight with UNAVAILABLE and ends the connection. May be called twice.

        In a forked child it does nothing: the connection is the parent's.
        """
        self._abandon.detach()
        self._connection.close()
        self._connection.release()

    def __enter__(self) -> Client:
        self._connection.check_usable()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"the client of {self.address} cannot be pickled or copied; send the address and make a client in each process"
        )

    def _ask(self, kind: str, extract: Callable[[Reply], Any], timeout_s: float) -> Any:
        self._connection.check_usable()
        request_id = self._connection.next_id()
        query = messages.encode_question(request_id, kind)
        return self._connection.submit(request_id, query, extract, f"{kind} request", timeout_s).result()

    def _submit(self, request_id: int, query: Query, what: str) -> Future[Result]:
        return self._connection.submit(request_id, query, lambda reply: reply.result, what, self._receive_timeout_s)

    def _block(self, outputs: object) -> Span:
        if not isinstance(outputs, np.ndarray) or not outputs.flags.c_contiguous or outputs.nbytes == 0:
            raise AbacusError("INVALID_ARGUMENT", "outputs is no dense array with elements", "outputs")
        span = self._connection.leases.span_of(outputs)
        if span is None:
            raise AbacusError(
                "INVALID_ARGUMENT",
                "outputs lies in no open lease of this client; take one with lease(), anew after the server went away",
                "outputs",
            )
        return span

    def _check_size(self, names: list[str], query: Query) -> None:
        """A message beyond the server's limits would end the connection, and every other query with it."""
        sizes = [memoryview(frame).nbytes for frame in query.frames]
        largest, total = self._connection.max_frame_bytes, self._connection.max_message_bytes
        for i, size in zip(query.framed, sizes[1:], strict=True):
            if largest and size > largest:
                raise AbacusError(
                    "INVALID_ARGUMENT",
                    f"input {names[i]!r} has {size} bytes; the server takes {largest} ([limits] max_frame_mib of its "
                    "configuration)",
                    f"inputs[{i}]",
                )
        if total and sum(sizes) > total:
            raise AbacusError(
                "INVALID_ARGUMENT",
                f"the query has {sum(sizes)} bytes; the server takes {total} ([limits] max_message_mib of its "
                "configuration)",
                "inputs",
            )


def _timeout(name: str, value: Duration | None, value_s: Duration, default_s: float) -> float:
    if value is None:
        return timeout_seconds(value_s, f"{name}_s")
    if value_s != default_s:
        raise AbacusError("INVALID_ARGUMENT", f"{name} and {name}_s are both given; give one", name)
    return timeout_seconds(value, name)


def _check_text(value: object, field: str) -> None:
    if not isinstance(value, str) or not value.isascii():
        raise AbacusError("INVALID_ARGUMENT", f"name {value!r} is no text of ASCII characters", field)


def _whole(value: object, field: str, low: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if isinstance(value, bool) or not low <= number <= _MAX_SIZE:
        raise AbacusError("INVALID_ARGUMENT", f"{value!r} is no integer from {low} to {_MAX_SIZE}", field)
    return number
