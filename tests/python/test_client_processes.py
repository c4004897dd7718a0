"""The Python client where processes meet: pickling, forks, pools, and what is left of clients that were dropped."""

from __future__ import annotations

import asyncio
import copy
import gc
import multiprocessing
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from abacus_client import AbacusError, Client, Timing
from abacus_client.messages import MalformedReply
from fake_server import echo, error_of, reply, serving

ONE = {"x": np.ones(1, np.float32)}


@pytest.mark.parametrize(
    "error",
    [
        AbacusError("TIMEOUT", "no reply"),
        AbacusError("INVALID_ARGUMENT", "wrong", "inputs[0].shape", Timing(queued_us=5, predicted_us=9)),
        MalformedReply("no id", 7),
    ],
)
def test_every_error_survives_pickling_with_its_parts(error):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for copied in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error), copy.deepcopy(error)):
            assert type(copied) is type(error) and str(copied) == str(error) and vars(copied) == vars(error)


def _ask_in_pool(address: str) -> None:
    with Client(address) as client:
        client.infer("m", ONE)


def test_an_error_crosses_a_process_pool():
    def refuse(header, frames):
        return [reply(header, status="OVERLOADED", message="full", timing={"queued_us": 3})]

    with serving(refuse) as server, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        error = error_of(pool.submit(_ask_in_pool, server.address), timeout_s=60)
    assert (error.status, error.message, error.timing.queued_us) == ("OVERLOADED", "full", 3)


def test_results_can_be_pickled():
    with serving(echo) as server, Client(server.address) as client:
        result = pickle.loads(pickle.dumps(client.infer("m", {"x": np.arange(5)})))
    assert result.outputs["x"].tolist() == [0, 1, 2, 3, 4]


def test_a_client_cannot_be_pickled_or_copied():
    with serving(echo) as server, Client(server.address) as client:
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="make a client in each process"):
                attempt(client)
        assert client.infer("m", ONE).model == "m"


PREAMBLE = """
import gc, os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
from abacus_client import AbacusError, Client
address = sys.argv[2]
ONE = {"x": [1.0]}
"""


def all_but_silent(header, frames):
    return [] if header["model"] == "silent" else echo(header, frames)


def run_program(server, body: str, timeout_s: float = 60) -> str:
    package = Path(sys.modules["abacus_client"].__file__).parents[1]
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PREAMBLE + textwrap.dedent(body)]
    done = subprocess.run(
        [*command, str(package), server.address], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_a_forked_child_is_told_to_make_its_own_client():
    with serving(all_but_silent) as server:
        output = run_program(
            server,
            """
            client = Client(address)
            pending = client.submit("silent", ONE)
            client._connection._lock.acquire()  # as another thread may hold it at the fork
            child = os.fork()
            if child == 0:
                attempts = {
                    "infer": lambda: client.infer("m", ONE),
                    "synthetic": lambda: client.submit_synthetic("m"),
                    "health": client.health,
                    "with": client.__enter__,
                    "result": pending.result,
                    "exception": pending.exception,
                }
                for name, attempt in attempts.items():
                    try:
                        attempt()
                        print(name, "did not fail")
                    except AbacusError as error:
                        told = "make a client of its own in the child" in error.message
                        print(name, error.status if told else error)
                client.close()
                del client, pending
                gc.collect()
                with Client(address) as own:
                    print("own", own.infer("m", ONE).model, flush=True)
                sys.exit(0)  # with everything that happens at exit
            client._connection._lock.release()
            print("child ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            print("parent", client.infer("m", ONE).model)
            """,
        )
    told = [f"{name} UNAVAILABLE" for name in ("infer", "synthetic", "health", "with", "result", "exception")]
    assert output.splitlines() == [*told, "own m", "child ended with 0", "parent m"]


def test_dropped_clients_leave_no_thread_and_no_descriptor():
    with serving(echo) as server:
        output = run_program(
            server,
            """
            def held():
                return len(os.listdir("/proc/self/fd")), threading.active_count()

            def make():
                client = Client(address)
                client.infer("m", ONE)
                client.itself = client  # only the garbage collector finds it

            closed = Client(address)
            closed.close()
            before = held()
            kept = []
            for i in range(1000):
                make()
                if i % 50 == 0:
                    gc.collect()
                if i % 10 == 0:
                    kept.append(Client(address))
                    kept[-1].close()
            gc.collect()
            for _ in range(500):
                if held() == before:
                    break
                time.sleep(0.02)
            print(held() == before, held(), before)
            """,
            timeout_s=120,
        )
    assert output.startswith("True"), output


def test_a_query_of_a_dropped_client_is_still_answered():
    release = threading.Event()

    def handler(header, frames):
        release.wait(10)
        return echo(header, frames)

    with serving(handler) as server:
        future = Client(server.address).submit("m", ONE)
        gc.collect()
        release.set()
        assert future.result(timeout=10).model == "m"


def test_a_closed_client_says_so():
    with serving(echo) as server:
        with Client(server.address) as client:
            with client:
                client.infer("m", ONE)
            for attempt in (client.models, client.health, client.__enter__, lambda: client.submit_synthetic("m")):
                with pytest.raises(AbacusError, match="closed") as caught:
                    attempt()
                assert caught.value.status == "UNAVAILABLE"


def test_an_interrupted_wait_leaves_the_client_usable():
    with serving(all_but_silent) as server:
        output = run_program(
            server,
            """
            client = Client(address)
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            try:
                client.infer("silent", ONE)
            except KeyboardInterrupt:
                print("interrupted", client.infer("m", ONE).model)
            """,
        )
    assert output == "interrupted m\n"


def test_futures_can_be_awaited():
    def handler(header, frames):
        failed = [reply(header, status="OVERLOADED", message="full")]
        return failed if header["model"] == "bad" else echo(header, frames)

    async def ask(client):
        good, bad = await asyncio.gather(
            *(asyncio.wrap_future(client.submit(model, ONE)) for model in ("good", "bad")), return_exceptions=True
        )
        return good.model, bad.status

    with serving(handler) as server, Client(server.address) as client:
        assert asyncio.run(ask(client)) == ("good", "OVERLOADED")


@pytest.mark.parametrize(
    "ending",
    [
        "client.submit('m', ONE)",
        "client.infer('echo', ONE)",
        "client.submit('m', ONE).add_done_callback(lambda _: print('told'))",
        "client.submit('echo', ONE).add_done_callback(lambda _: time.sleep(60)); time.sleep(0.3)",
        "threading.Thread(target=client.submit, args=('m', ONE)).start()",
        "sys.modules['kept'] = client; client.itself = client; client.submit('m', ONE)",
    ],
)
def test_a_program_that_forgets_to_close_still_exits(ending):
    def handler(header, frames):
        return echo(header, frames) if header["model"] == "echo" else []

    with serving(handler) as server:
        run_program(server, f"client = Client(address, receive_timeout_s=float('inf')); {ending}", timeout_s=20)
