"""The client: one connection to one controller.

Thread rule: every method may be called from any thread. One background thread owns the socket; callers hand it frames
through a queue and get futures. Callbacks added to a future run on that thread and must not block.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import zmq

from . import messages
from .errors import AbacusError
from .messages import Health, MalformedReply, ModelDescription, Reply, Result

_log = logging.getLogger("abacus_client")


@dataclass
class _Pending:
    future: Future
    deadline: float  # monotonic seconds
    timeout_s: float
    extract: Callable[[Reply], Any]  # what the caller wants of an OK reply
    what: str  # for error messages


class Client:
    def __init__(self, address: str, connect_timeout_s: float = 5.0, receive_timeout_s: float = 30.0) -> None:
        """Connects to a ZeroMQ endpoint such as "tcp://127.0.0.1:5570".

        connect_timeout_s: longest wait for the controller's first answer; then AbacusError (UNAVAILABLE). The models
            need not be ready by then, health() tells.
        receive_timeout_s: longest wait for a reply, from the submission of its query; that query alone then fails with
            TIMEOUT. Choose it well above the latency targets: the controller answers late queries by itself.
        """
        self.address = address
        self._receive_timeout_s = receive_timeout_s
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        # Guarded by _lock. _in_flight is in the order of its deadlines: queries have one timeout, and the constructor's
        # round trip, which has another, is alone.
        self._in_flight: dict[int, _Pending] = {}
        self._outgoing: deque[tuple[int, list[Any]]] = deque()
        self._closed = False

        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        # Without a peer nothing goes to libzmq: queries wait here, where their timeouts remove them.
        self._socket.immediate = True
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise AbacusError("INVALID_ARGUMENT", f"address {address!r}: {error}", "address") from error
        self._wake_receiver, self._wake_sender = os.pipe()
        os.set_blocking(self._wake_receiver, False)
        os.set_blocking(self._wake_sender, False)
        self._thread = threading.Thread(target=self._run, name="abacus-client", daemon=True)
        self._thread.start()
        try:
            # One round trip, so that a wrong address is an error here and not the timeout of the first query.
            self._ask("health", lambda reply: reply.health, connect_timeout_s)
        except AbacusError as error:
            self.close()
            raise AbacusError("UNAVAILABLE", f"{error.message}; is an Abacus controller listening there?") from error

    def submit(self, model: str, inputs: Mapping[str, object], qos_us: int = 0) -> Future[Result]:
        """Sends a query; the future gives a Result or raises AbacusError.

        inputs: name -> array, or (uint16 array, "bfloat16"). The array's memory is sent without a copy where it is
            row-major: leave it unchanged until the future is done.
        qos_us: latency target in microseconds; 0: the service's own.
        """
        request_id = next(self._ids)
        frames = messages.encode_infer(request_id, model, dict(inputs), qos_us)
        return self._submit(request_id, frames, lambda reply: reply.result, f"query for {model}")

    def submit_synthetic(self, model: str, batch: int = 1, sequence: int = 0, qos_us: int = 0) -> Future[Result]:
        """A query without tensors: the worker runs on an input of its own and returns no outputs. For load tests."""
        request_id = next(self._ids)
        frames = messages.encode_synthetic(request_id, model, batch, sequence, qos_us)
        return self._submit(request_id, frames, lambda reply: reply.result, f"synthetic query for {model}")

    def infer(self, model: str, inputs: Mapping[str, object], qos_us: int = 0) -> Result:
        """submit() and wait."""
        return self.submit(model, inputs, qos_us).result()

    def models(self) -> list[ModelDescription]:
        return self._ask("models", lambda reply: list(reply.models))

    def health(self) -> Health:
        return self._ask("health", lambda reply: reply.health)

    def close(self) -> None:
        """Fails what is in flight with UNAVAILABLE and ends the connection. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, kind: str, extract: Callable[[Reply], Any], timeout_s: float | None = None) -> Any:
        request_id = next(self._ids)
        frames = messages.encode_query(request_id, kind)
        return self._submit(request_id, frames, extract, f"{kind} request", timeout_s).result()

    def _submit(
        self,
        request_id: int,
        frames: list[Any],
        extract: Callable[[Reply], Any],
        what: str,
        timeout_s: float | None = None,
    ) -> Future:
        future: Future = Future()
        future.set_running_or_notify_cancel()  # a query that was sent cannot be taken back
        with self._lock:
            if self._closed:
                raise AbacusError("UNAVAILABLE", f"the client of {self.address} is closed")
            timeout_s = self._receive_timeout_s if timeout_s is None else timeout_s
            self._in_flight[request_id] = _Pending(future, time.monotonic() + timeout_s, timeout_s, extract, what)
            self._outgoing.append((request_id, frames))
            self._wake()
        return future

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it will wake anyway
            os.write(self._wake_sender, b"\0")

    # From here on: the background thread.

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake_receiver, zmq.POLLIN)
        reason = f"the client of {self.address} was closed"
        try:
            while not self._closed:
                poller.register(self._socket, zmq.POLLIN | (zmq.POLLOUT if self._outgoing else 0))
                events = dict(poller.poll(self._poll_ms()))
                if self._wake_receiver in events:
                    os.read(self._wake_receiver, 65536)
                self._send_outgoing()
                if events.get(self._socket, 0) & zmq.POLLIN:
                    self._receive_all()
                self._expire()
        except Exception as error:
            _log.exception("the connection to %s ends", self.address)
            reason = f"the connection to {self.address} ended: {error}"
        finally:
            with self._lock:
                self._closed = True
                abandoned = list(self._in_flight.values())
                self._in_flight.clear()
                self._outgoing.clear()
            self._context.destroy(linger=0)
            os.close(self._wake_receiver)
            os.close(self._wake_sender)
            for pending in abandoned:
                pending.future.set_exception(AbacusError("UNAVAILABLE", f"{pending.what}: {reason}"))

    def _poll_ms(self) -> int | None:
        with self._lock:
            first = next(iter(self._in_flight.values()), None)
        return None if first is None else max(0, int((first.deadline - time.monotonic()) * 1000) + 1)

    def _send_outgoing(self) -> None:
        while True:
            with self._lock:
                while self._outgoing and self._outgoing[0][0] not in self._in_flight:  # timed out before it was sent
                    self._outgoing.popleft()
                if not self._outgoing:
                    return
                frames = self._outgoing[0][1]
            try:
                self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            with self._lock:
                self._outgoing.popleft()

    def _receive_all(self) -> None:
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._handle([frame.buffer for frame in frames])

    def _handle(self, frames: list[memoryview]) -> None:
        try:
            reply = messages.decode_reply(frames)
        except MalformedReply as error:
            pending = self._take(error.id)
            if pending is None:
                _log.warning("malformed reply from %s dropped: %s", self.address, error)
            else:
                pending.future.set_exception(
                    AbacusError("INTERNAL", f"{pending.what}: malformed reply from {self.address}: {error}")
                )
            return
        pending = self._take(reply.id)
        if pending is None:  # its query has timed out
            _log.debug("late reply %d from %s dropped", reply.id, self.address)
        elif reply.status == "OK":
            pending.future.set_result(pending.extract(reply))
        else:
            pending.future.set_exception(AbacusError(reply.status, reply.message, reply.field, reply.timing))

    def _take(self, request_id: int | None) -> _Pending | None:
        with self._lock:
            return self._in_flight.pop(request_id, None) if request_id is not None else None

    def _expire(self) -> None:
        now = time.monotonic()
        while True:
            with self._lock:
                request_id, pending = next(iter(self._in_flight.items()), (0, None))
                if pending is None or pending.deadline > now:
                    return
                del self._in_flight[request_id]
            pending.future.set_exception(
                AbacusError(
                    "TIMEOUT",
                    f"{pending.what}: no reply from {self.address} within {pending.timeout_s:g} s (id {request_id})",
                )
            )
