"""The Python client against a server that answers well, late, wrongly or not at all."""

from __future__ import annotations

import math
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import msgpack
import numpy as np
import pytest
from abacus_client import AbacusError, Client, bfloat16_to_float32, float32_to_bfloat16
from abacus_client.durations import parse_duration
from abacus_client.errors import STATUSES
from abacus_client.messages import MalformedReply, decode_reply
from fake_server import echo, error_of, reply, serving

ONE = {"x": np.ones(1, np.float32)}


def test_statuses_are_those_of_the_server_in_its_order():
    header = (Path(__file__).resolve().parents[2] / "base" / "status.h").read_text(encoding="utf-8")
    last = re.search(r"kWireStatusCount = static_cast<size_t>\(StatusCode::k(\w+)\) \+ 1;", header)[1]
    names = re.findall(r'"(\w+)",', re.search(r"kStatusCodeNames = \{(.*?)\};", header, re.DOTALL)[1])
    count = [name.replace("_", "") for name in names].index(last.upper()) + 1
    assert tuple(names[:count]) == STATUSES


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


def test_bfloat16_goes_in_as_bits_and_comes_out_as_its_values():
    values = np.array([1.0, -2.5, 3.14159, np.nan, np.inf, -0.0, 1e-40], np.float32)
    bits = float32_to_bfloat16(values)
    with serving(echo) as server, Client(server.address) as client:
        result = client.infer("m", {"x": (bits, "bfloat16"), "none": (bits[:0], "bfloat16")})
    assert server.requests[0]["inputs"][0]["dtype"] == "bfloat16"
    assert result.dtypes["x"] == "bfloat16"
    assert result.outputs["x"].dtype == np.float32 and result.outputs["none"].shape == (0,)
    assert np.array_equal(float32_to_bfloat16(result.outputs["x"]), bits)
    np.testing.assert_allclose(result.outputs["x"][:3], values[:3], rtol=1 / 128)
    assert not result.outputs["x"].flags.writeable
    with pytest.raises(ValueError, match="uint16, not float32"):
        bfloat16_to_float32(result.outputs["x"])  # converted twice, they would be other numbers


def _torch_inputs():
    torch = pytest.importorskip("torch")
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    return torch, {
        "plain": base,
        "grad": base.clone().requires_grad_(),
        "transposed": base.t(),
        "strided": base[:, ::2],
        "expanded": base[:1].expand(3, 4),
        "conjugate": torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "half": base.half(),
        "integers": torch.tensor([-1, 2**62]),
        "boolean": base > 3,
        "parameter": torch.nn.Parameter(base.double()),
    }


def test_torch_tensors_arrive_with_their_values():
    torch, inputs = _torch_inputs()
    with serving(echo) as server, Client(server.address) as client:
        outputs = client.infer("m", inputs).outputs
    for name, tensor in inputs.items():
        assert outputs[name].dtype.name == str(tensor.dtype).removeprefix("torch."), name
        assert np.array_equal(outputs[name], tensor.detach().resolve_neg().numpy()), name


def test_torch_bfloat16_arrives_with_its_values():
    torch = pytest.importorskip("torch")
    tensor = (torch.arange(12).reshape(3, 4) / 8 - 0.5).to(torch.bfloat16).t().requires_grad_()
    with serving(echo) as server, Client(server.address) as client:
        result = client.infer("m", {"x": tensor, "scalar": torch.tensor(2.5, dtype=torch.bfloat16)})
    assert [i["dtype"] for i in server.requests[0]["inputs"]] == ["bfloat16", "bfloat16"]
    assert np.array_equal(result.outputs["x"], tensor.detach().float().numpy())
    assert result.outputs["scalar"].shape == () and result.outputs["scalar"] == 2.5


def test_a_tensor_of_a_gpu_is_copied():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    tensor = torch.arange(6, device="cuda", dtype=torch.bfloat16)
    with serving(echo) as server, Client(server.address) as client:
        assert client.infer("m", {"x": tensor}).outputs["x"].tolist() == [0, 1, 2, 3, 4, 5]


def test_torch_tensors_without_elements_are_refused():
    torch = pytest.importorskip("torch")
    bad = {"sparse": torch.eye(3).to_sparse(), "meta": torch.empty(2, device="meta"), "complex": torch.ones(1) * 1j}
    with serving(echo) as server, Client(server.address) as client:
        for name, tensor in bad.items():
            with pytest.raises(AbacusError) as caught:
                client.submit("m", {"x": tensor})
            assert caught.value.status == "INVALID_ARGUMENT" and caught.value.field.startswith("inputs[0]"), name
        assert not server.requests


def test_bfloat16_of_ml_dtypes_sends_its_bits():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([1.5, -2.25], ml_dtypes.bfloat16)
    with serving(echo) as server, Client(server.address) as client:
        result = client.infer("m", {"x": array})
    assert result.dtypes["x"] == "bfloat16" and result.outputs["x"].tolist() == [1.5, -2.25]


def test_values_that_are_masked_are_not_sent():
    with serving(echo) as server, Client(server.address) as client:
        with pytest.raises(AbacusError, match="masked") as caught:
            client.submit("m", {"x": np.ma.masked_equal([1.0, 2.0], 2.0)})
        assert caught.value.field == "inputs[0]"
        assert client.infer("m", {"x": np.ma.array([1.0, 2.0])}).outputs["x"].tolist() == [1, 2]


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
        ("m", {"x": [[1.0], [1.0, 2.0]]}, "inputs[0]"),
        ("m", {"x": ["a"]}, "inputs[0].dtype"),
        ("m", {"x": None}, "inputs[0].dtype"),
        ("m", {"x": 2**70}, "inputs[0].dtype"),
        ("m", {1: np.zeros(1)}, "inputs[0].name"),
        ("m", {"\ud800": np.zeros(1)}, "inputs[0].name"),
        ("m", np.zeros(3), "inputs"),
        ("m", None, "inputs"),
        (None, ONE, "model"),
        (b"m", ONE, "model"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_once(model, inputs, field):
    with serving(echo) as server, Client(server.address) as client:
        with pytest.raises(AbacusError) as caught:
            client.submit(model, inputs)
    assert caught.value.status == "INVALID_ARGUMENT" and caught.value.field == field


# --- numbers and durations


@pytest.mark.parametrize(
    ("target", "expected_us"),
    [
        ({"qos_us": 5000}, 5000),
        ({"qos_us": np.int64(5000)}, 5000),
        ({"qos_us": np.uint8(200)}, 200),
        ({"qos_us": np.float32(1500.25)}, 1500),
        ({"qos_us": np.array(5000)}, 5000),
        ({"qos_us": "50ms"}, 50_000),
        ({"qos_us": 3_600_000_000}, 3_600_000_000),
        ({"qos": "50ms"}, 50_000),
        ({"qos": "2.5 s"}, 2_500_000),
        ({"qos": "800us"}, 800),
        ({"qos": "1min"}, 60_000_000),
        ({"qos": "1h"}, 3_600_000_000),
        ({"qos": "1500ns"}, 2),
        ({"qos": timedelta(milliseconds=20)}, 20_000),
        ({"qos_us": 0}, None),
        ({"qos_us": np.float64(0)}, None),
        ({}, None),
    ],
)
def test_a_target_is_sent_in_microseconds(target, expected_us):
    with serving(echo) as server, Client(server.address) as client:
        client.infer("m", ONE, **target)
        client.submit_synthetic("m", **target).result()
    assert [request.get("qos_us") for request in server.requests] == [expected_us, expected_us]


@pytest.mark.parametrize(
    "target",
    [
        *({"qos_us": value} for value in (-1, 2**63, 2**64, 10**400, 3_600_000_001, 0.25, math.inf, -math.inf)),
        *({"qos_us": value} for value in (math.nan, True, None, "50", "fast", [50], np.arange(2), 1j)),
        *({"qos": value} for value in ("0ms", "-1ms", "2h", "999ns", "9" * 40 + "s", "50", "ms", "1e3ms", "50 m", "")),
        *({"qos": value} for value in (50, 0.05, timedelta(0), timedelta(days=1), timedelta(seconds=-1))),
        {"qos": "50ms", "qos_us": 50_000},
    ],
    ids=lambda target: str(target)[:40],
)
def test_a_target_that_means_nothing_is_refused(target):
    with serving(echo) as server, Client(server.address) as client:
        with pytest.raises(AbacusError) as caught:
            client.submit("m", ONE, **target)
        assert caught.value.status == "INVALID_ARGUMENT" and caught.value.field in target
        assert client.infer("m", ONE).model == "m"
        assert len(server.requests) == 1


@pytest.mark.parametrize("value", [0, -1, math.nan, -math.inf, "0s", "soon", "5", True, [1], timedelta(0)])
@pytest.mark.parametrize("name", ["connect_timeout", "receive_timeout", "connect_timeout_s", "receive_timeout_s"])
def test_a_time_limit_that_means_nothing_is_refused(name, value):
    with pytest.raises(AbacusError) as caught:
        Client("tcp://127.0.0.1:1", **{name: value})
    assert caught.value.status == "INVALID_ARGUMENT" and name in caught.value.message


@pytest.mark.parametrize("value", [math.inf, 1e9, 1e300, 10**400, np.float32(60), "1000h", timedelta(days=10_000)])
def test_a_long_time_limit_waits_on(value):
    held = []

    def handler(header, frames):
        held.extend(echo(header, frames))
        return [held.pop(), held.pop()] if len(held) == 2 else []

    with serving(handler) as server, Client(server.address, connect_timeout=value, receive_timeout=value) as client:
        first = client.submit("m", ONE)
        time.sleep(0.02)
        assert not first.done()
        client.infer("m", ONE)
        assert first.result(timeout=10).model == "m"


def test_a_time_limit_may_be_a_text():
    with serving(lambda header, frames: []) as server, Client(server.address, receive_timeout="200ms") as client:
        assert "within 0.2 s" in error_of(client.submit("m", ONE)).message
    with pytest.raises(AbacusError, match="both given"):
        Client("tcp://127.0.0.1:1", receive_timeout_s=3, receive_timeout="3s")


def test_sizes_of_synthetic_queries_are_checked():
    with serving(echo) as server, Client(server.address) as client:
        for field, sizes in {"batch": [0, -1, 2**32, 1.5, True, "1"], "sequence": [-1, 2**32, None]}.items():
            for size in sizes:
                with pytest.raises(AbacusError) as caught:
                    client.submit_synthetic("m", **{field: size})
                assert caught.value.field == f"synthetic.{field}"
        assert not server.requests
        client.submit_synthetic("m", np.int32(4), np.uint16(64)).result()
    assert server.requests[0]["synthetic"] == {"batch": 4, "sequence": 64}


def test_the_same_texts_as_in_cpp_are_durations():
    good = {"0s": 0, "1ns": 1, "2.5s": 2_500_000_000, "0.3ms": 300_000, "0.0004us": 0, "0.0005us": 1, "90 min": 54e11}
    for text, nanoseconds in good.items():
        assert parse_duration(text) == nanoseconds
    bad = ("", "5", "ms", "-1ms", "+1ms", "1e3ms", ".5s", "5.s", "1ms ", " 1ms", "1MS", "inf", "nan", "0x1s", "\u0661s")
    for text in bad:
        with pytest.raises(ValueError, match="duration"):
            parse_duration(text)
    assert parse_duration("2562047h") < 2**63
    with pytest.raises(ValueError, match="292 years"):
        parse_duration("2562048h")


# --- sizes


def test_a_tensor_beyond_the_limit_is_refused_for_itself():
    held = []

    def handler(header, frames):
        held.extend(echo(header, frames))
        return held if header["model"] == "release" else []

    with serving(handler, limits={"max_frame_bytes": 1000, "max_message_bytes": 2500}) as server:
        with Client(server.address) as client:
            waiting = [client.submit("m", {"x": np.zeros(250, np.float32)}) for _ in range(66)]
            with pytest.raises(AbacusError, match="input 'y' has 1004 bytes; the server takes 1000") as caught:
                client.submit("m", {"x": np.zeros(1, np.float32), "y": np.zeros(251, np.float32)})
            assert caught.value.status == "INVALID_ARGUMENT" and caught.value.field == "inputs[1]"
            with pytest.raises(AbacusError, match="the server takes 2500") as caught:
                client.submit("m", {name: np.zeros(250, np.float32) for name in "abc"})
            assert caught.value.field == "inputs"
            client.submit("release", ONE)
            assert all(future.result(timeout=10).model == "m" for future in waiting)


def test_limits_that_the_server_changes_are_learned_from_its_next_answer():
    with serving(echo, limits={"max_frame_bytes": 3}) as server, Client(server.address) as client:
        with pytest.raises(AbacusError, match="the server takes 3"):
            client.submit("m", ONE)
        server.limits = {"max_frame_bytes": 4}
        client.health()
        assert client.infer("m", ONE).model == "m"


def test_without_limits_from_the_server_nothing_is_refused():
    with serving(echo) as server, Client(server.address) as client:
        assert client.infer("m", {"x": np.zeros(10_000_000, np.uint8)}).model == "m"


# --- addresses


def test_an_ipv6_address_is_reached():
    with serving(echo, host="[::1]") as server, Client(server.address) as client:
        assert client.infer("m", ONE).model == "m"


def test_a_host_name_is_reached():
    with serving(echo) as server, Client(f"tcp://localhost:{server.port}") as client:
        assert client.infer("m", ONE).model == "m"


def test_an_unknown_host_name_is_an_error_at_once():
    start = time.monotonic()
    with pytest.raises(AbacusError, match="no address of host 'nowhere.invalid'") as caught:
        Client("tcp://nowhere.invalid:5570", connect_timeout_s=60)
    assert caught.value.status == "UNAVAILABLE" and time.monotonic() - start < 30


@pytest.mark.parametrize("address", [None, 5570, b"tcp://127.0.0.1:1", "", "tcp://", "tcp://127.0.0.1", "tcp://:5570"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(AbacusError) as caught:
        Client(address, connect_timeout_s=0.5)
    assert caught.value.status == "INVALID_ARGUMENT" and caught.value.field == "address"
