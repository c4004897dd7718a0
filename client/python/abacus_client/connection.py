"""The connection under a Client: one socket, one background thread, and the queries that wait for an answer.

It knows nothing of its Client, so that a Client that nobody holds any more is collected; the connection then ends by
itself, once its last query is answered. Nothing of it survives a fork: the child has the thread's memory, not the
thread, and shares the socket's descriptors with its parent, so it must touch neither.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import itertools
import logging
import math
import os
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import zmq

from . import messages
from .errors import AbacusError
from .leases import Leases, Span
from .messages import MalformedReply, Query, Reply

_log = logging.getLogger("abacus_client")

_LONGEST_POLL_MS = 60_000
_LONGEST_EXIT_S = 2.0  # for a callback that does not return


def _check_process(pid: int, address: str) -> None:
    if os.getpid() != pid:
        raise AbacusError(
            "UNAVAILABLE",
            f"the client of {address} was made in process {pid}, of which this one, {os.getpid()}, is a fork; make a "
            "client of its own in the child",
        )


class ReplyFuture(Future):
    """A Future whose query can be taken back until its reply is there, and that says so where it can never come: in a
    forked child."""

    def __init__(self, connection: Connection, request_id: int) -> None:
        super().__init__()
        self._pid, self._address = os.getpid(), connection.address
        self._connection = weakref.ref(connection)  # whose end does not wait for those who keep futures
        self._request_id = request_id

    def cancel(self) -> bool:
        """Takes the query back: true, and result() raises CancelledError from now on, unless it was done before.

        Never waits. The server is told, drops the query where it still waits, and its answer is not looked at any more.
        """
        _check_process(self._pid, self._address)
        connection = self._connection()
        if connection is None or not connection.take_back(self._request_id):
            return self.cancelled()
        super().cancel()  # runs the callbacks
        self.set_running_or_notify_cancel()  # tells concurrent.futures.wait() and as_completed()
        return True

    def running(self) -> bool:
        """True until it is done. (The base class cannot cancel what it calls running, so it is not told.)"""
        return not self.done()

    def result(self, timeout: float | None = None) -> Any:
        _check_process(self._pid, self._address)  # before its lock, which the fork may have caught held
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        _check_process(self._pid, self._address)
        return super().exception(timeout)


@dataclass
class _Pending:
    future: ReplyFuture
    deadline: float  # monotonic seconds; may be infinite
    timeout_s: float
    extract: Callable[[Reply], Any]  # what the caller wants of an OK reply
    what: str  # for error messages
    frames: list[Any]
    spans: list[Span]  # of its inputs: kept until the reply
    sent: bool = False


class _Wake:
    """Wakes the thread. Its descriptors live as long as anybody may still write to them."""

    receiver = -1

    def __init__(self) -> None:
        self.receiver, self._sender = os.pipe()
        os.set_blocking(self.receiver, False)
        os.set_blocking(self._sender, False)

    def set(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it will wake anyway
            os.write(self._sender, b"\0")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.receiver, 65536)

    def close(self) -> None:
        if self.receiver >= 0:
            os.close(self.receiver)
            os.close(self._sender)
            self.receiver = self._sender = -1

    __del__ = close


class Connection:
    """Thread rule: every method may be called from any thread, but for those under "the background thread"."""

    def __init__(self, address: str) -> None:
        """Connects in the background. AbacusError where `address` is no endpoint or the machine lacks something."""
        self.address = address
        # Largest tensor and largest message that the server takes, in bytes; 0 until a reply has said so.
        self.max_frame_bytes = 0
        self.max_message_bytes = 0
        self.lease_path = ""  # as the server said; empty: it gives none
        self.leases = Leases()
        self._pid = os.getpid()
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        # Guarded by _lock. _in_flight is in the order of its deadlines: queries have one timeout, and the constructor's
        # round trip, which has another, is alone.
        self._in_flight: dict[int, _Pending] = {}
        self._outgoing: deque[int] = deque()  # queries to send; those not in flight any more are skipped
        self._cancels: deque[int] = deque()  # queries that were sent and taken back
        # Blocks that the server may write outputs to: until the reply, also for queries that nobody waits for any more.
        self._blocks: dict[int, Span] = {}
        self._closed = False
        self._abandoned = False  # set without the lock: a garbage collection may come while this thread holds it

        ipv6 = _needs_ipv6(address)
        context = None
        try:
            self._wake = _Wake()
            self._context = context = zmq.Context()
            self._socket = context.socket(zmq.DEALER)
            self._socket.linger = 0
            # Without a peer nothing goes to libzmq: queries wait here, where their timeouts remove them.
            self._socket.immediate = True
            self._socket.ipv6 = ipv6
            self._socket.connect(address)
        except (OSError, zmq.ZMQError) as error:
            if context is not None:
                context.destroy(linger=0)
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise AbacusError("UNAVAILABLE", f"no client of {address}: {error}") from error
            raise AbacusError("INVALID_ARGUMENT", f"address {address!r}: {error}", "address") from error
        self._thread = threading.Thread(target=self._run, name="abacus-client", daemon=True)
        self._thread.start()
        _connections.add(self)

    def next_id(self) -> int:
        return next(self._ids)

    def check_usable(self) -> None:
        """AbacusError in a forked child and after close()."""
        _check_process(self._pid, self.address)
        if self._closed:
            raise AbacusError("UNAVAILABLE", f"the client of {self.address} is closed")

    def submit(
        self,
        request_id: int,
        query: Query,
        extract: Callable[[Reply], Any],
        what: str,
        timeout_s: float,
    ) -> ReplyFuture:
        self.check_usable()
        future = ReplyFuture(self, request_id)
        deadline = time.monotonic() + timeout_s
        with self._lock:
            if self._closed:
                self.check_usable()
            self._claim(request_id, query)
            self._in_flight[request_id] = _Pending(
                future, deadline, timeout_s, extract, what, query.frames, query.spans
            )
            self._outgoing.append(request_id)
            self._wake.set()
        return future

    def _claim(self, request_id: int, query: Query) -> None:
        """Memory that the server writes to is of one query alone."""
        busy = "may still be written to by an earlier query; wait for its answer, or use another place"
        block = query.block
        for span in query.spans:
            if span.region.overlaps(span.offset, span.offset + span.size):
                raise AbacusError("INVALID_ARGUMENT", f"an input lies in leased memory that {busy}", "inputs")
        if block is not None:
            if block.region.holds_inputs(block.offset, block.offset + block.size):
                unread = "lies over inputs of an earlier query; wait for its answer, or use another place"
                raise AbacusError("INVALID_ARGUMENT", f"the block for the outputs {unread}", "outputs")
            if not block.region.claim(block.offset, block.offset + block.size):
                raise AbacusError("INVALID_ARGUMENT", f"the block for the outputs {busy}", "outputs")
            self._blocks[request_id] = block
        for span in query.spans:
            span.region.begin_read(span.offset, span.offset + span.size)

    def _forget(self, request_id: int) -> _Pending | None:
        """Nobody waits for its reply any more. With the lock."""
        pending = self._in_flight.pop(request_id, None)
        for span in pending.spans if pending is not None else ():
            span.region.end_read(span.offset, span.offset + span.size)
        return pending

    def _free_block(self, request_id: int) -> None:
        """Nobody writes to its block any more. With the lock."""
        if (block := self._blocks.pop(request_id, None)) is not None:
            block.region.release(block.offset, block.offset + block.size)

    def take_back(self, request_id: int) -> bool:
        """Whether it was in flight; it is not any more, and the server is told if it knows of it."""
        with self._lock:
            pending = self._forget(request_id)
            if pending is None:
                return False
            if pending.sent:
                self._cancels.append(request_id)
                self._wake.set()
            else:
                self._free_block(request_id)
        return True

    def close(self, longest_s: float | None = None) -> None:
        """Fails what is in flight with UNAVAILABLE and ends the thread; waits for it. Nothing in a forked child."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if not self._closed:
                self._closed = True
                self._wake.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(longest_s)

    def abandon(self) -> None:
        """Nobody holds the Client any more: ends when the last query is answered. Never blocks, takes no lock."""
        if os.getpid() == self._pid:
            self._abandoned = True
            self._wake.set()

    def release(self) -> None:
        """After close(), when abandon() cannot be called any more: gives the last descriptors back."""
        if os.getpid() == self._pid and not self._thread.is_alive():
            with self._lock:
                self._wake.close()

    # From here on: the background thread.

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake.receiver, zmq.POLLIN)
        reason = f"the client of {self.address} was closed"
        try:
            while not (self._closed or (self._abandoned and not self._in_flight)):
                poller.register(self._socket, zmq.POLLIN | (zmq.POLLOUT if self._outgoing or self._cancels else 0))
                events = dict(poller.poll(self._poll_ms()))
                if self._wake.receiver in events:
                    self._wake.clear()
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
                unanswered = list(self._in_flight.values())
                self._in_flight.clear()
                self._outgoing.clear()
                self._cancels.clear()
                self._blocks.clear()
            self.leases.close()
            self._context.destroy(linger=0)
            for pending in unanswered:
                pending.future.set_exception(AbacusError("UNAVAILABLE", f"{pending.what}: {reason}"))

    def _poll_ms(self) -> int | None:
        with self._lock:
            first = next(iter(self._in_flight.values()), None)
        if first is None or first.deadline == math.inf:
            return None
        return int(min(max(0.0, (first.deadline - time.monotonic()) * 1000 + 1), _LONGEST_POLL_MS))

    def _send_outgoing(self) -> None:
        while True:
            with self._lock:
                pending = None
                if self._cancels:
                    request_id = self._cancels[0]
                    frames = messages.encode_cancel(request_id)
                else:
                    while self._outgoing and self._outgoing[0] not in self._in_flight:  # taken back, or timed out
                        self._outgoing.popleft()
                    if not self._outgoing:
                        return
                    request_id = self._outgoing[0]
                    pending = self._in_flight[request_id]
                    pending.sent = True
                    frames = pending.frames
            try:
                self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
            except zmq.Again:
                if pending is not None:
                    with self._lock:
                        pending.sent = False
                        if request_id not in self._in_flight:  # taken back meanwhile
                            self._free_block(request_id)
                return
            with self._lock:
                (self._cancels if pending is None else self._outgoing).popleft()
                if pending is not None:
                    pending.frames = []

    def _receive_all(self) -> None:
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._handle([frame.buffer for frame in frames])

    def _handle(self, frames: list[memoryview]) -> None:
        try:
            reply = messages.decode_reply(frames, self._blocks.get)
        except MalformedReply as error:
            pending = self._take(error.id)
            if pending is None:
                _log.warning("malformed reply from %s dropped: %s", self.address, error)
            else:
                pending.future.set_exception(
                    AbacusError("INTERNAL", f"{pending.what}: malformed reply from {self.address}: {error}")
                )
            return
        self.max_frame_bytes = reply.max_frame_bytes or self.max_frame_bytes
        self.max_message_bytes = reply.max_message_bytes or self.max_message_bytes
        self.lease_path = reply.lease or self.lease_path
        pending = self._take(reply.id)
        if pending is None:  # its query has timed out, or was taken back
            _log.debug("late reply %d from %s dropped", reply.id, self.address)
        elif reply.status == "OK":
            pending.future.set_result(pending.extract(reply))
        else:
            pending.future.set_exception(AbacusError(reply.status, reply.message, reply.field, reply.timing))

    def _take(self, request_id: int | None) -> _Pending | None:
        """The query whose reply has come."""
        if request_id is None:
            return None
        with self._lock:
            self._free_block(request_id)
            return self._forget(request_id)

    def _expire(self) -> None:
        now = time.monotonic()
        while True:
            with self._lock:
                request_id, pending = next(iter(self._in_flight.items()), (0, None))
                if pending is None or pending.deadline > now:
                    return
                self._forget(request_id)
                if not pending.sent:
                    self._free_block(request_id)
            pending.future.set_exception(
                AbacusError(
                    "TIMEOUT",
                    f"{pending.what}: no reply from {self.address} within {pending.timeout_s:g} s (id {request_id})",
                )
            )


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # A thread inside libzmq must not meet the end of the interpreter.
    for connection in list(_connections):
        connection.close(_LONGEST_EXIT_S)


def _needs_ipv6(address: str) -> bool:
    """Whether libzmq has to look the host up as IPv6: it does one or the other. IPv4 goes first."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if not address.startswith("tcp://"):
        return False
    if not host or not port:
        raise AbacusError("INVALID_ARGUMENT", f"address {address!r}: write tcp://HOST:PORT", "address")
    if host.startswith("["):
        return True
    try:
        families = {entry[0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        message = f"address {address!r}: no address of host {host!r}: {error}"
        raise AbacusError("UNAVAILABLE", message, "address") from error
    return socket.AF_INET not in families
