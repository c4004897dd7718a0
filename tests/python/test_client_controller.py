"""The Python client and a real controller with fake workers: leased memory, cancelled queries, killed clients.

Needs the build; without it these tests are skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from abacus_client import AbacusError, Client
from fake_server import error_of

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / "build" / "bin"
PROGRAMS = ("abacus-controller", "abacus-fake-worker", "abacus-status")
pytestmark = pytest.mark.skipif(
    not all((BIN / program).exists() for program in PROGRAMS), reason="needs the build: ./mps.sh setup"
)

MIB = 1 << 20
QUOTA = 8 * MIB  # of a client's leases; those of all together are at most 16 times that
LEASING_CLIENTS = 16
WIDTH = 50_000

CONFIG = f"""
[server]
name = "NAME"
listen = ["tcp://127.0.0.1:*"]
arena_mib = 32
intake_threads = 2
[limits]
max_frame_mib = 4
max_message_mib = 8
max_client_mib = {QUOTA // MIB}
[scheduler]
policy = "edf"
abandon = false
[worker]
device = "fake"
[[service]]
name = "image"
model = "image.toml"
[[service]]
name = "text"
model = "text.toml"
"""

# Both give back what they get.
IMAGE = f"""
name = "image"
file = "none.pt"
[[inputs]]
name = "x"
dtype = "float32"
shape = ["batch", {WIDTH}]
[[outputs]]
name = "y"
dtype = "float32"
shape = ["batch", {WIDTH}]
[buckets]
batch = [1, 2, 4]
[fake]
operators = 8
base_us = BASE_US
"""
TEXT = """
name = "text"
file = "none.pt"
[[inputs]]
name = "ids"
dtype = "int64"
shape = ["batch", "sequence"]
range = [0, 999999]
[[inputs]]
name = "scale"
dtype = "float32"
shape = ["batch", 3]
[[outputs]]
name = "out"
dtype = "int64"
shape = ["batch", "sequence"]
[[outputs]]
name = "factors"
dtype = "float32"
shape = ["batch", 3]
[buckets]
batch = [1, 2, 4]
sequence = [8, 16]
[fake]
operators = 8
base_us = BASE_US
"""


class Controller:
    """A controller in a folder of its own, and where its clients connect."""

    def __init__(self, base_us: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="abacus-py-"))  # short: it is part of a socket's path
        self.name = self.folder.name  # there may be other controllers
        for name, text in {"config": CONFIG, "image": IMAGE, "text": TEXT}.items():
            text = text.replace("BASE_US", str(base_us)).replace("NAME", self.name)
            (self.folder / f"{name}.toml").write_text(text, encoding="utf-8")
        self.environment = os.environ | {"ABACUS_RUN_DIR": str(self.folder)}
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [BIN / "abacus-controller", "--config", self.folder / "config.toml"], env=self.environment, stderr=log
            )
        try:
            until(lambda: self.process.poll() is not None or len(self._listening()) == 2, 30)
            assert self.process.poll() is None, self.log()
            self.tcp, self.ipc = self._listening()
            with Client(self.ipc) as client:
                until(lambda: client.health().ready, 60)
        except BaseException:
            self.stop()
            raise

    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")

    def stop(self) -> int:
        """Its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
            shutil.rmtree(self.folder, ignore_errors=True)

    def status(self) -> dict[str, Any]:
        line = [BIN / "abacus-status", "--json", "--name", self.name]
        return json.loads(subprocess.run(line, env=self.environment, check=True, capture_output=True).stdout)

    def jobs(self) -> int:
        return sum(service["jobs"] for service in self.status()["services"])

    def leased_regions(self) -> int:
        """That it has mapped."""
        return Path(f"/proc/{self.process.pid}/maps").read_text(encoding="utf-8").count("memfd:abacus-lease")

    def _listening(self) -> list[str]:
        return re.findall(r"listening on (\S+)", self.log())


def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextlib.contextmanager
def running(base_us: int = 0) -> Iterator[Controller]:
    controller = Controller(base_us)
    try:
        yield controller
    except BaseException:
        print(controller.log())
        controller.stop()
        raise
    log = controller.log()
    assert controller.stop() == 0, log


@pytest.fixture(scope="module")
def fast() -> Iterator[Controller]:
    with running() as controller:
        yield controller


@pytest.fixture(scope="module")
def slow() -> Iterator[Controller]:
    """Where every job takes half a second."""
    with running(500_000) as controller:
        yield controller


# --- leased memory


@pytest.mark.parametrize("endpoint", ["tcp", "ipc"])
def test_leased_queries_are_answered_as_plain_ones(fast, endpoint):
    random = np.random.default_rng(1)
    with Client(getattr(fast, endpoint)) as client:
        images, outputs = client.lease((5, WIDTH), np.float32), client.lease(2 * MIB)
        for rows in (1, 3, 4, 5):  # 5: more than a job holds
            images[:rows] = random.standard_normal((rows, WIDTH))
            inputs = {"x": np.array(images[:rows])}
            plain = client.infer("image", inputs)
            assert np.array_equal(plain.outputs["y"], inputs["x"])
            block = outputs[MIB // 2 :]
            for leased in (
                client.infer("image", {"x": images[:rows]}),
                client.infer("image", inputs, outputs=block),
                client.infer("image", {"x": images[:rows]}, outputs=block),
            ):
                assert leased.dtypes == plain.dtypes and leased.model == plain.model == "image"
                assert np.array_equal(leased.outputs["y"], plain.outputs["y"])
            assert np.shares_memory(leased.outputs["y"], block) and not outputs[: MIB // 2].any()
            assert not np.shares_memory(plain.outputs["y"], outputs)


def test_several_inputs_of_which_some_are_leased(fast):
    random = np.random.default_rng(2)
    with Client(fast.ipc) as client:
        ids, outputs = client.lease((9, 16), np.int64), client.lease(4096)
        for rows, length in ((1, 1), (2, 8), (3, 11), (9, 16)):
            values = random.integers(0, 1_000_000, (rows, length))
            scale = random.standard_normal((rows, 3)).astype(np.float32)
            leased = ids.reshape(-1)[: rows * length].reshape(rows, length)
            leased[...] = values
            plain = client.infer("text", {"ids": values, "scale": scale}).outputs
            assert np.array_equal(plain["out"], values) and np.array_equal(plain["factors"], scale)
            outputs[:] = 0xFE
            got = client.infer("text", {"ids": leased, "scale": scale}, outputs=outputs).outputs
            assert list(got) == list(plain)
            assert all(np.array_equal(got[name], plain[name]) for name in plain)
            used = -(-plain["out"].nbytes // 64) * 64 + plain["factors"].nbytes
            assert (outputs[used:] == 0xFE).all(), "nothing behind the outputs is touched"


def test_many_leased_queries_in_flight_keep_apart(fast):
    with Client(fast.tcp) as client:
        count, values = 8, np.random.default_rng(3).standard_normal((40, WIDTH)).astype(np.float32)
        inputs, outputs = client.lease((count, WIDTH), np.float32), client.lease((count, WIDTH + 16), np.float32)
        for turn in range(5):
            inputs[...] = values[turn * count :][:count]
            futures = [client.submit("image", {"x": inputs[i : i + 1]}, outputs=outputs[i]) for i in range(count)]
            for i, future in enumerate(futures):
                assert np.array_equal(future.result().outputs["y"][0], values[turn * count + i])


def test_what_is_wrong_with_a_leased_query_is_said_and_costs_nothing_else(fast):
    with Client(fast.ipc) as client:
        ids, block = client.lease((1, 8), np.int64), client.lease(4096)
        scale = np.ones((1, 3), np.float32)
        ids[0, 5] = 1_000_000
        error = error_of(client.submit("text", {"ids": ids, "scale": scale}))
        assert (error.status, error.field) == ("INVALID_ARGUMENT", "inputs[0]")
        ids[0, 5] = 999_999
        error = error_of(client.submit("text", {"ids": ids, "scale": scale}, outputs=block[:64]))
        assert (error.status, error.field) == ("INVALID_ARGUMENT", "outputs_bytes")
        assert client.infer("text", {"ids": ids, "scale": scale}, outputs=block[:128]).outputs["out"][0, 5] == 999_999
        with pytest.raises(AbacusError) as caught:
            client.lease(QUOTA)  # together with the others it is too much
        assert caught.value.status == "OVERLOADED"
        ids.close()
        block.close()
        until(lambda: fast.leased_regions() == 0)
        assert client.lease(QUOTA).nbytes == QUOTA


# --- queries that are taken back


def test_a_waiting_query_that_is_cancelled_is_never_run(slow):
    with Client(slow.tcp) as client:
        one = np.full((1, WIDTH), 1, np.float32)
        jobs = slow.jobs()
        first = client.submit("image", {"x": 4 * one})
        until(lambda: next(row for row in slow.status()["services"] if row["service"] == "image")["running"] == 1)
        waiting = [client.submit("image", {"x": i * one}) for i in range(3)]
        until(lambda: client.health().services[0].queued == 3)
        assert waiting[0].cancel() and waiting[1].cancel() and waiting[0].cancelled()
        until(lambda: client.health().services[0].queued == 1)
        assert not first.done(), "they were taken out of the queue, not run"
        assert first.result().outputs["y"][0, 0] == 4 and waiting[2].result().outputs["y"][0, 0] == 2
        assert not waiting[2].cancel(), "it has its answer"
        assert slow.jobs() == jobs + 2
        until(lambda: slow.status()["arena_used_bytes"] == 0)


def test_a_running_query_that_is_cancelled_leaves_its_companions_alone(slow):
    with Client(slow.ipc) as client:
        one = np.full((1, WIDTH), 1, np.float32)
        first = client.submit("image", {"x": one})
        until(lambda: next(row for row in slow.status()["services"] if row["service"] == "image")["running"] == 1)
        jobs = slow.jobs()
        companions = [client.submit("image", {"x": i * one}) for i in range(4)]
        first.result()
        until(lambda: client.health().services[0].queued == 0)  # they run, as one job
        assert companions[1].cancel()
        for i in (0, 2, 3):
            assert companions[i].result().outputs["y"][0, 0] == i
        assert slow.jobs() == jobs + 2
        until(lambda: slow.status()["arena_used_bytes"] == 0)


def test_the_block_of_a_cancelled_query_is_free_once_the_server_let_go_of_it(slow):
    with Client(slow.ipc) as client:
        one = np.full((1, WIDTH), 1, np.float32)
        block = client.lease(WIDTH * 4)
        first = client.submit("image", {"x": one})
        cancelled = client.submit("image", {"x": 2 * one}, outputs=block)
        assert cancelled.cancel()

        def accepted() -> bool:
            try:
                return client.infer("image", {"x": 3 * one}, outputs=block).outputs["y"][0, 0] == 3
            except AbacusError as error:
                assert (error.status, error.field) == ("INVALID_ARGUMENT", "outputs")
                return False

        until(accepted)
        assert first.result().outputs["y"][0, 0] == 1 and block.view(np.float32)[0] == 3


# --- clients that are killed

# COUNT processes that each lease QUOTA bytes, send queries that read and write them, print their number and wait.
LEASING = """
import os, sys
import numpy as np
from abacus_client import Client

address, count, quota, width = sys.argv[1], *map(int, sys.argv[2:])
for _ in range(count):
    if os.fork() == 0:
        client = Client(address)
        lease = client.lease(quota)
        assert not lease.any(), "somebody's bytes"
        lease[:] = 0x5A
        rows = lease[: quota // 2 // (4 * width) * 4 * width].view(np.float32).reshape(-1, width)
        blocks = lease[quota // 2 :]
        sent = [client.submit("image", {"x": rows[i : i + 1]}, outputs=blocks[i * 4 * width : (i + 1) * 4 * width])
                for i in range(3)]
        os.write(1, f"{os.getpid()}\\n".encode())
        sys.stdin.read()
        os._exit(0)
sys.stdin.read()
"""


@contextlib.contextmanager
def leasing_processes(controller: Controller, count: int) -> Iterator[list[int]]:
    """Their numbers. They end with this test, whatever becomes of it: their input is a pipe that it holds."""
    arguments = [controller.tcp, str(count), str(QUOTA), str(WIDTH)]
    with subprocess.Popen(
        [sys.executable, "-c", LEASING, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT / "client" / "python"), "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        try:
            printed, deadline = b"", time.monotonic() + 60
            while printed.count(b"\n") < count:
                ready, _, _ = select.select([parent.stdout], [], [], deadline - time.monotonic())
                assert ready, printed
                printed += os.read(parent.stdout.fileno(), 4096)
            yield [int(number) for number in printed.split()]
        finally:
            parent.stdin.close()


def test_the_memory_of_killed_clients_is_given_back(slow):
    until(lambda: slow.leased_regions() == 0)
    with Client(slow.ipc) as client, leasing_processes(slow, LEASING_CLIENTS) as processes:
        assert slow.leased_regions() == LEASING_CLIENTS
        with pytest.raises(AbacusError) as caught:
            client.lease(QUOTA)
        assert caught.value.status == "OVERLOADED", "all that there is, is leased"

        os.kill(processes[0], signal.SIGKILL)
        until(lambda: slow.leased_regions() == LEASING_CLIENTS - 1)
        with client.lease(QUOTA) as lease:
            assert lease.nbytes == QUOTA and not lease.any(), "what the killed client wrote is gone"
            with pytest.raises(AbacusError):
                client.lease(4096)
        until(lambda: slow.leased_regions() == LEASING_CLIENTS - 1)

        for process in processes[1:]:
            os.kill(process, signal.SIGKILL)
        until(lambda: slow.leased_regions() == 0)
        until(lambda: slow.status()["arena_used_bytes"] == 0)
        # The workers have the queries of the living only.
        values = np.full((1, WIDTH), 7, np.float32)
        assert np.array_equal(client.infer("image", {"x": values}).outputs["y"], values)
