"""Queries that the Python client takes back."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, as_completed, wait

import numpy as np
import pytest
from abacus_client import Client
from fake_server import echo, error_of, reply, serving

ONE = {"x": np.ones(1, np.float32)}


class Holding:
    """Keeps the queries of "slow" until they are cancelled, and answers these as the server does."""

    def __init__(self) -> None:
        self.held = {}
        self.cancelled = []
        self.arrived = threading.Condition()

    def __call__(self, header, frames):
        with self.arrived:
            self.arrived.notify_all()
            if header["type"] == "cancel":
                assert header.keys() == {"v", "type", "id"}
                self.cancelled.append(header["id"])
                query = self.held.pop(header["id"], None)
                return [reply(query, status="CANCELLED", message="its client took it back")] if query else []
            if header["model"] != "slow":
                return echo(header, frames)
            self.held[header["id"]] = header
            return []

    def wait_for(self, condition) -> None:
        with self.arrived:
            assert self.arrived.wait_for(condition, 10)


def test_a_query_that_is_taken_back_is_cancelled_at_the_server_and_here():
    handler = Holding()
    with serving(handler) as server, Client(server.address) as client:
        future, other = client.submit("slow", ONE), client.submit("slow", ONE)
        handler.wait_for(lambda: len(handler.held) == 2)
        assert future.running() and not future.cancelled()
        assert future.cancel() and future.cancelled() and future.done() and not future.running()
        assert future.cancel(), "as concurrent.futures says of a cancelled one"
        with pytest.raises(CancelledError):
            future.result(timeout=0)
        handler.wait_for(lambda: handler.cancelled)
        assert client.infer("m", ONE).model == "m"
        assert handler.cancelled == [server.requests[0]["id"]], "once, and no other"
        assert not other.done()


def test_what_is_done_cannot_be_taken_back():
    handler = Holding()
    with serving(handler) as server, Client(server.address) as client:
        future = client.submit("m", ONE)
        future.result(timeout=10)
        assert not future.cancel() and not future.cancelled()
        assert future.result().model == "m"
        failed = client.submit("slow", ONE)
        client.close()
        assert error_of(failed).status == "UNAVAILABLE" and not failed.cancel()
    assert not handler.cancelled


def test_the_answer_of_a_server_that_was_faster_is_dropped():
    held = []

    def handler(header, frames):
        if header["type"] == "cancel":
            return held  # the ordinary answer: it was done before the cancel came
        held.extend(echo(header, frames))
        return []

    with serving(handler) as server, Client(server.address) as client:
        future = client.submit("m", ONE)
        while not held:
            time.sleep(0.001)
        assert future.cancel()
        assert client.health().services, "the connection goes on"
        assert future.cancelled()


def test_a_query_cancelled_by_the_server_raises_the_error():
    def handler(header, frames):
        return [reply(header, status="CANCELLED", message="taken back")]

    with serving(handler) as server, Client(server.address) as client:
        future = client.submit("m", ONE)
        assert error_of(future).status == "CANCELLED" and not future.cancelled()


def test_a_query_taken_back_before_it_was_sent_is_never_sent():
    with serving(echo) as server:
        client = Client(server.address)
    time.sleep(0.1)
    futures = [client.submit("m", {"x": np.full(1, i, np.int64)}) for i in range(10)]
    assert all(future.cancel() for future in futures[::2])
    with serving(echo, server.port) as server:
        assert [future.result(timeout=10).outputs["x"][0] for future in futures[1::2]] == [1, 3, 5, 7, 9]
        assert [request["type"] for request in server.requests] == ["infer"] * 5
        client.close()


def test_everyone_who_waits_is_told():
    told = threading.Event()
    with serving(Holding()) as server, Client(server.address) as client:
        first, second = client.submit("slow", ONE), client.submit("slow", ONE)
        first.add_done_callback(lambda future: told.set() if future.cancelled() else None)
        threading.Timer(0.1, first.cancel).start()
        done, not_done = wait([first, second], timeout=10, return_when=FIRST_COMPLETED)
        assert (done, not_done) == ({first}, {second})
        assert told.wait(10)
        second.cancel()
        assert set(as_completed([first, second], timeout=10)) == {first, second}


def test_cancelling_an_awaited_query_takes_it_back():
    handler = Holding()

    async def ask(client):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(client.submit("slow", ONE)), 0.2)

    with serving(handler) as server, Client(server.address) as client:
        asyncio.run(ask(client))
        handler.wait_for(lambda: handler.cancelled)


def test_cancel_and_reply_at_the_same_time_end_in_one_of_both():
    with serving(lambda h, f: [] if h["type"] == "cancel" else echo(h, f)) as server, Client(server.address) as client:
        for i in range(300):
            future: Future = client.submit("m", {"x": np.full(1, i, np.int64)})
            time.sleep((i % 20) * 2e-5)
            if future.cancel():
                assert future.cancelled()
            else:
                assert future.result(timeout=10).outputs["x"][0] == i
        assert client.infer("m", ONE).model == "m"


def test_a_kept_future_does_not_keep_the_connection():
    with serving(echo) as server:
        client = Client(server.address)
        future = client.submit("m", ONE)
        future.result(timeout=10)
        thread = client._connection._thread
        del client
        gc.collect()
        thread.join(10)
        assert not thread.is_alive()
        assert not future.cancel() and future.result().model == "m"
