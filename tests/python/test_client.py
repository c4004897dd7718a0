"""The Python client against a server that answers well, late, wrongly or not at all."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgpack
import numpy as np
import pytest
from abacus_client import AbacusError, Client, bfloat16_to_float32, float32_to_bfloat16
from abacus_client.messages import MalformedReply, decode_reply
from fake_server import echo, reply, serving

ONE = {"x": np.ones(1, np.float32)}


def error_of(future) -> AbacusError:
    error = future.exception(timeout=10)
    assert isinstance(error, AbacusError)
    return error


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(6, dtype=np.float16),
        np.arange(6, dtype=np.float64).reshape(1, 2, 3),
        np.array([-1, 2**62], dtype=np.int64),
        np.array([[1], [-2]], dtype=np.int32),
        np.array([300], dtype=np.int16),
        np.array([-7], dtype=np.int8),
        np.array([7, 255], dtype=np.uint8),
        np.array([True, False]),
        np.array(3.5, dtype=np.float32),  # no dimension
        np.empty((0, 4), dtype=np.int64),
        np.arange(20, dtype=np.float32).reshape(4, 5)[:, ::2],  # not dense
        np.arange(5, dtype=">i4"),
        np.arange(100_000, dtype=np.float32),  # large enough for libzmq not to copy
    ],
    ids=lambda array: f"{array.dtype.str}{list(array.shape)}",
)
def test_tensors_survive_the_round_trip(array):
    with serving(echo) as server, Client(server.address) as client:
        result = client.infer("m", {"x": array})
    assert result.outputs["x"].shape == array.shape
    assert result.outputs["x"].dtype.name == array.dtype.name
    assert np.array_equal(result.outputs["x"], array)
    assert not result.outputs["x"].flags.writeable


def test_bfloat16_travels_as_uint16():
    values = np.array([1.0, -2.5, 3.14159, np.nan, np.inf], np.float32)
    bits = float32_to_bfloat16(values)
    with serving(echo) as server, Client(server.address) as client:
        result = client.infer("m", {"x": (bits, "bfloat16")})
    assert server.requests[0]["inputs"][0]["dtype"] == "bfloat16"
    assert result.dtypes["x"] == "bfloat16"
    assert np.array_equal(result.outputs["x"], bits)
    np.testing.assert_allclose(bfloat16_to_float32(bits), values, rtol=1 / 128)


def test_request_headers_hold_what_the_protocol_says():
    with serving(lambda header, frames: [reply(header)]) as server, Client(server.address) as client:
        client.infer("m", {"x": np.zeros((2, 3), np.float32)})
        client.infer("m", ONE, qos_us=5000)
        client.submit_synthetic("m", batch=4, sequence=16).result()
        client.models()
    first, second, third, fourth = server.requests
    shape = {"name": "x", "dtype": "float32", "shape": [2, 3]}
    assert first == {"v": 1, "type": "infer", "id": first["id"], "model": "m", "inputs": [shape]}
    assert second["qos_us"] == 5000
    assert third["synthetic"] == {"batch": 4, "sequence": 16} and "inputs" not in third
    assert fourth == {"v": 1, "type": "models", "id": fourth["id"]}
    assert len({first["id"], second["id"], third["id"], fourth["id"]}) == 4


def test_replies_out_of_order_find_their_queries():
    held = []

    def handler(header, frames):
        held.extend(echo(header, frames))
        return [held.pop() for _ in range(len(held))] if len(held) == 20 else []

    with serving(handler) as server, Client(server.address) as client:
        futures = [client.submit("m", {"x": np.full(3, i, np.float32)}) for i in range(20)]
        for i, future in enumerate(futures):
            assert future.result(timeout=10).outputs["x"].tolist() == [i, i, i]


def test_an_error_reply_becomes_an_exception_with_all_its_parts():
    fields = {
        "status": "INVALID_ARGUMENT",
        "message": "expected [batch, 3]",
        "field": "inputs[0].shape",
        "timing": {"queued_us": 5, "predicted_us": 9},
    }
    with serving(lambda header, frames: [reply(header, **fields)]) as server, Client(server.address) as client:
        with pytest.raises(AbacusError, match=r"INVALID_ARGUMENT: expected \[batch, 3\]") as caught:
            client.infer("m", ONE)
    assert caught.value.status == "INVALID_ARGUMENT"
    assert caught.value.field == "inputs[0].shape"
    assert caught.value.timing.queued_us == 5 and caught.value.timing.predicted_us == 9


def test_a_timeout_fails_its_query_only_and_a_late_reply_is_dropped():
    held = []

    def handler(header, frames):
        if header["model"] == "slow":
            held.extend(echo(header, frames))
            return []
        return (held if header["model"] == "release" else []) + echo(header, frames)

    with serving(handler) as server, Client(server.address, receive_timeout_s=0.3) as client:
        slow = client.submit("slow", ONE)
        assert client.infer("fast", ONE).model == "fast"
        assert not slow.done()
        assert error_of(slow).status == "TIMEOUT"
        assert client.infer("release", ONE).model == "release"  # the late reply comes just before this one


def test_no_reply_is_a_timeout_that_names_query_and_server():
    with serving(lambda header, frames: []) as server, Client(server.address, receive_timeout_s=0.2) as client:
        error = error_of(client.submit("m", ONE))
    assert error.status == "TIMEOUT"
    assert "query for m" in error.message and server.address in error.message


def test_connecting_to_nobody_names_the_address():
    with serving(echo) as server:
        address = server.address
    start = time.monotonic()
    with pytest.raises(AbacusError, match="UNAVAILABLE") as caught:
        Client(address, connect_timeout_s=0.2)
    assert address in caught.value.message
    assert time.monotonic() - start < 5


def test_a_wrong_address_is_an_invalid_argument():
    with pytest.raises(AbacusError, match="nonsense") as caught:
        Client("nonsense")
    assert caught.value.status == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("fields", "frames", "complaint"),
    [
        ({"v": 2}, [], "version"),
        ({"status": "FINE"}, [], "unknown status"),
        ({"status": 0}, [], "status: expected str"),
        ({"outputs": [{"name": "y", "dtype": "float32", "shape": [2]}]}, [], "0 tensor frames for 1 outputs"),
        ({"outputs": [{"name": "y", "dtype": "float32", "shape": [2]}]}, [b"123"], "3 bytes"),
        ({"outputs": [{"name": "y", "dtype": "complex64", "shape": [2]}]}, [b"x" * 16], "complex64"),
        ({"outputs": [{"name": "y", "dtype": "float32", "shape": [-1]}]}, [b""], "shape"),
        ({"outputs": [{"name": "y", "dtype": "float32", "shape": [2**62, 4]}]}, [b""], "shape"),
        ({"outputs": "many"}, [], "outputs: expected list"),
        ({"timing": {"rounds": "one"}}, [], "timing.rounds"),
    ],
)
def test_a_malformed_reply_fails_its_query(fields, frames, complaint):
    def handler(header, _):
        return [reply(header, frames, **fields)] if header["model"] == "bad" else echo(header, _)

    with serving(handler) as server, Client(server.address) as client:
        error = error_of(client.submit("bad", ONE))
        assert error.status == "INTERNAL" and complaint in error.message
        assert client.infer("good", ONE).model == "good"


@pytest.mark.parametrize("header", [b"", b"\xc1", b"\x93\x01\x02\x03", msgpack.packb({"v": 1}), b"x" * 70_000])
def test_a_reply_without_an_id_is_dropped(header):
    with serving(lambda h, frames: [[header], *echo(h, frames)]) as server, Client(server.address) as client:
        assert client.infer("m", ONE).status == "OK"


def test_decoding_random_bytes_raises_nothing_else():
    generator = random.Random(1)
    good = msgpack.packb(
        {
            "v": 1,
            "id": 3,
            "status": "OK",
            "outputs": [{"name": "y", "dtype": "int8", "shape": [2, 2]}],
            "timing": {"rounds": 1},
            "models": [{"name": "m", "inputs": [{"name": "x", "dtype": "int64", "dims": ["batch"], "range": [0, 1]}]}],
            "services": [{"name": "m", "state": "ready"}],
        }
    )
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            decode_reply([memoryview(bytes(data[: generator.randint(1, len(data))])), memoryview(b"1234")])
        except MalformedReply:
            pass


def test_two_servers_are_kept_apart():
    def answer(name):
        return lambda header, frames: [reply(header, model=name)]

    with serving(answer("a")) as server_a, serving(answer("b")) as server_b:
        with Client(server_a.address) as client_a, Client(server_b.address) as client_b:
            futures = [(client_a.submit("m", ONE), client_b.submit("m", ONE)) for _ in range(50)]
            assert {(a.result().model, b.result().model) for a, b in futures} == {("a", "b")}
            client_a.close()
            assert client_b.infer("m", ONE).model == "b"
    assert len(server_a.requests) == 50 and len(server_b.requests) == 51


def test_threads_share_a_client():
    with serving(echo) as server, Client(server.address) as client, ThreadPoolExecutor(8) as pool:

        def ask(i: int) -> bool:
            return client.infer("m", {"x": np.full(1000, i, np.int64)}).outputs["x"][-1] == i

        assert all(pool.map(ask, range(400)))


def test_closing_fails_what_is_in_flight():
    with serving(lambda header, frames: []) as server:
        client = Client(server.address)
        future = client.submit("m", ONE)
        client.close()
        client.close()
        assert error_of(future).status == "UNAVAILABLE"
        with pytest.raises(AbacusError, match="closed"):
            client.submit("m", ONE)


def test_closing_from_a_callback_does_not_hang():
    closed = threading.Event()
    with serving(echo) as server:
        client = Client(server.address)
        client.submit("m", ONE).add_done_callback(lambda _: (client.close(), closed.set()))
        assert closed.wait(10)


def test_a_server_that_comes_back_gets_the_waiting_queries():
    with serving(echo) as server:
        client = Client(server.address)
        client.infer("m", ONE)
    future = client.submit("m", ONE)
    time.sleep(0.1)
    assert not future.done()
    with serving(echo, server.port):
        assert future.result(timeout=10).model == "m"
        client.close()


def test_models_and_health():
    description = {
        "name": "minilm",
        "inputs": [{"name": "ids", "dtype": "int64", "dims": ["batch", "sequence"], "range": [0, 30521]}],
        "outputs": [{"name": "embedding", "dtype": "float32", "dims": ["batch", "384"]}],
        "batch": [1, 2],
        "sequence": [16],
        "qos_us": 1000,
    }
    with serving(lambda header, frames: [reply(header, models=[description])]) as server:
        with Client(server.address) as client:
            (model,) = client.models()
            health = client.health()
    assert model.inputs[0].dims == ("batch", "sequence") and model.inputs[0].range == (0, 30521)
    assert model.outputs[0].range is None
    assert (model.batch_sizes, model.sequence_lengths, model.qos_us) == ((1, 2), (16,), 1000)
    assert not health.ready
    assert (health.services[0].state, health.services[0].worker_pid, health.services[0].restarts) == ("starting", 7, 2)


@pytest.mark.parametrize(
    ("model", "inputs", "field"),
    [
        ("m", {}, "inputs"),
        ("", ONE, "model"),
        ("m", {"x": np.zeros(1, np.uint16)}, "inputs[0].dtype"),
        ("m", {"x": np.zeros(1, np.complex64)}, "inputs[0].dtype"),
        ("m", {"x": (np.zeros(1, np.float32), "bfloat16")}, "inputs[0].dtype"),
        ("m", {"x": np.zeros((1,) * 9)}, "inputs[0].shape"),
        ("m", {"": np.zeros(1)}, "inputs[0].name"),
        ("m", {f"x{i}": np.zeros(1) for i in range(17)}, "inputs"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_once(model, inputs, field):
    with serving(echo) as server, Client(server.address) as client:
        with pytest.raises(AbacusError) as caught:
            client.submit(model, inputs)
    assert caught.value.status == "INVALID_ARGUMENT" and caught.value.field == field


def test_a_program_that_forgets_to_close_still_exits():
    package = Path(sys.modules["abacus_client"].__file__).parents[1]
    with serving(lambda header, frames: []) as server:
        code = (
            f"import sys; sys.path.insert(0, {str(package)!r})\n"
            f"from abacus_client import Client; Client({server.address!r}).submit('m', {{'x': [1.0]}})"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
