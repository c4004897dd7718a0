"""A controller of the tests: a ROUTER socket whose answers are a function of the request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    `limits` are the keys about sizes in its health replies.
    """

    def __init__(
        self, handler: Handler, port: int | None = None, host: str = "127.0.0.1", limits: dict[str, int] | None = None
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
