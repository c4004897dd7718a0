"""A controller of the tests: a ROUTER socket whose answers are a function of the request."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgpack
import zmq
from abacus_client import AbacusError

# From (header, tensor frames) to the replies to send now, each a list of frames.
Handler = Callable[[dict[str, Any], list[bytes]], list[list[bytes]]]


def reply(header: dict[str, Any], frames: list[bytes] = (), **fields: Any) -> list[bytes]:
    """A well-formed reply to `header`; `fields` replaces or adds keys."""
    return [msgpack.packb({"v": 1, "id": header["id"], "status": "OK"} | fields), *frames]


def echo(header: dict[str, Any], frames: list[bytes]) -> list[list[bytes]]:
    """Outputs are the inputs."""
    return [reply(header, frames, model=header["model"], outputs=header.get("inputs", []))]


class FakeServer:
    """Answers health requests by itself and everything else by `handler`; keeps the headers that it saw.

    `limits` are more keys of its health replies.
    """

    def __init__(
        self, handler: Handler, port: int | None = None, host: str = "127.0.0.1", limits: dict[str, Any] | None = None
    ) -> None:
        self.requests: list[dict[str, Any]] = []
        self.limits = limits or {}
        self._handler = handler
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.ipv6 = host.startswith("[")
        self.port = port or self._socket.bind_to_random_port(f"tcp://{host}")
        if port:
            self._socket.bind(f"tcp://{host}:{port}")
        self.address = f"tcp://{host}:{self.port}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self._socket.poll(20):
                continue
            identity, packed, *frames = self._socket.recv_multipart()
            header = msgpack.unpackb(packed)
            if header["type"] == "health":
                services = [{"name": "m", "state": "starting", "pid": 7, "restarts": 2, "message": "loading"}]
                replies = [reply(header, ready=False, services=services, **self.limits)]
            else:
                self.requests.append(header)
                replies = self._handler(header, frames)
            for message in replies:
                self._socket.send_multipart([identity, *message])


SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def memory(size: int, seals: int = SEALS) -> int:
    """A descriptor as a lease hands it over."""
    descriptor = os.memfd_create("lease", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


class LeaseServer:
    """The lease socket of a controller. `answer` replaces what it sends: (bytes, descriptors) for the wanted size.

    `regions` has the server's mapping of every lease that is held.
    """

    def __init__(self, path: str, answer: Callable[[int], tuple[bytes, list[int]]] | None = None) -> None:
        self.path, self.regions, self.asked = path, {}, []
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """The server goes away, and every lease with it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        os.unlink(self.path)
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        (size,) = struct.unpack("<Q", connection.recv(8, socket.MSG_WAITALL))
        self.asked.append(size)
        region_id = int.from_bytes(os.urandom(8), "little") | 1 << 63
        if self._answer is not None:
            answer, descriptors = self._answer(size)
        else:
            descriptors = [memory(size)]
            self.regions[region_id] = mmap.mmap(descriptors[0], size)
            answer = struct.pack("<QQQ", 0, region_id, size)
        if answer:
            socket.send_fds(connection, [answer], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        if self._answer is None:
            connection.recv(1)  # until the client gives it back
            self.regions.pop(region_id)
        connection.close()


@contextmanager
def serving(handler: Handler, port: int | None = None, **options: Any) -> Iterator[FakeServer]:
    server = FakeServer(handler, port, **options)
    try:
        yield server
    finally:
        server.stop()


def error_of(future, timeout_s: float = 10) -> AbacusError:
    error = future.exception(timeout=timeout_s)
    assert isinstance(error, AbacusError)
    return error
