"""Memory that the Python client shares with the server: what travels, how long it lives, and bad answers."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import pickle
import struct
import threading
import time

import numpy as np
import pytest
from abacus_client import AbacusError, Client, LeasedArray
from fake_server import LeaseServer, echo, error_of, memory, reply, serving

OK = struct.pack("<QQQ", 0, 7, 4096)


class Reading:
    """Echoes like `echo`, but finds inputs in regions, and puts outputs there where it is asked to."""

    def __init__(self, leases: LeaseServer) -> None:
        self.leases = leases
        self.held = None  # a list: queries wait in it
        self.offset_of = lambda at, header: at  # where the reply says that an output lies
        self.frames = []
        self.late = []  # answers that go out before the next one

    def __call__(self, header, frames):
        if header["type"] == "cancel":
            return []
        self.frames.append(len(frames))
        if self.held is not None:
            self.held.append(header)
            return []
        late, self.late = self.late, []
        return [*late, self.answer(header, frames)]

    def answer(self, header, frames=()):
        frames = list(frames)
        tensors = []
        for entry in header["inputs"]:
            size = int(np.prod(entry["shape"])) * np.dtype(entry["dtype"]).itemsize
            if "region" in entry:
                tensors.append(self.leases.regions[entry["region"]][entry["offset"] : entry["offset"] + size])
            else:
                tensors.append(frames.pop(0))
        assert not frames
        entries = [{key: entry[key] for key in ("name", "dtype", "shape")} for entry in header["inputs"]]
        if "outputs_region" not in header:
            return reply(header, tensors, model=header["model"], outputs=entries)
        at, region = header["outputs_offset"], self.leases.regions[header["outputs_region"]]
        if sum(-(-len(tensor) // 64) * 64 for tensor in tensors) > header["outputs_bytes"]:
            return reply(header, status="INVALID_ARGUMENT", field="outputs_bytes", message="too small")
        for entry, tensor in zip(entries, tensors, strict=True):
            region[at : at + len(tensor)] = tensor
            entry["offset"] = self.offset_of(at, header)
            at += -(-len(tensor) // 64) * 64
        return reply(header, model=header["model"], outputs=entries)


@contextlib.contextmanager
def leasing(tmp_path, answer=None, **options):
    """A client of a server that gives leases, that server, and its handler."""
    leases = LeaseServer(str(tmp_path / "lease.sock"), answer)
    handler = Reading(leases)
    with serving(handler, limits={"lease": leases.path}) as server, Client(server.address, **options) as client:
        yield client, server, handler
    with contextlib.suppress(OSError):
        leases.stop()


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("wanted", "dtype", "shape"),
    [
        ((2, 3), np.float32, (2, 3)),
        ([4], "int64", (4,)),
        (100, np.uint8, (100,)),
        ((), np.float64, ()),
        (np.int32(5), "u2", (5,)),
    ],
)
def test_a_lease_is_a_writable_array_of_zeros(tmp_path, wanted, dtype, shape):
    with leasing(tmp_path) as (client, _, handler):
        array = client.lease(wanted, dtype)
        assert isinstance(array, np.ndarray) and array.shape == shape and array.dtype == dtype
        assert array.flags.writeable and array.flags.c_contiguous and not array.any() and array.leased
        assert handler.leases.asked == [array.nbytes]
        array[...] = 7
        assert bytes(next(iter(handler.leases.regions.values()))) == array.tobytes()


def test_arrays_in_a_lease_are_not_sent(tmp_path):
    with leasing(tmp_path) as (client, server, handler):
        array = client.lease((4, 3, 5), np.float32)
        array[...] = np.arange(60).reshape(4, 3, 5)
        other = client.lease(8, np.int64)
        other[:] = range(8)
        ordinary = np.arange(6, dtype=np.int16)
        result = client.infer(
            "m", {"a": array, "o": ordinary, "b": other[2:5], "row": array[1:3], "c": np.array(other)}
        )
        assert handler.frames == [2]
        for name, value in {"a": array, "o": ordinary, "b": other[2:5], "row": array[1:3], "c": other}.items():
            assert np.array_equal(result.outputs[name], value), name
        entries = server.requests[0]["inputs"]
        assert ["region" in entry for entry in entries] == [True, False, True, True, False]
        assert [entry.get("offset") for entry in entries] == [0, None, 16, 60, None]
        assert entries[0]["region"] == entries[3]["region"] != entries[2]["region"]


def test_views_are_found_by_their_address_whatever_they_are(tmp_path):
    torch = pytest.importorskip("torch")
    with leasing(tmp_path) as (client, server, handler):
        lease = client.lease(4096)
        views = {
            "typed": np.asarray(lease[256:512]).view(np.float32).reshape(8, 8),
            "torch": torch.from_numpy(lease[512:768].view(np.int64)),
            "bits": (lease[1024:1030].view(np.uint16), "bfloat16"),
            "frombuffer": np.frombuffer(lease, np.int8, 10, 2048),
        }
        lease[:] = np.arange(4096) % 64
        handler.held = []
        client.submit("m", views)
        until(lambda: handler.held)
        assert handler.frames == [0]
        assert [entry["offset"] for entry in server.requests[0]["inputs"]] == [256, 512, 1024, 2048]


def test_what_is_not_dense_is_copied_as_usual(tmp_path):
    with leasing(tmp_path) as (client, _, handler):
        lease = client.lease((4, 6), np.float32)
        lease[...] = np.arange(24).reshape(4, 6)
        inputs = {
            "strided": lease[:, ::2],
            "transposed": lease.T,
            "reversed": lease[::-1],
            "big": lease.view(">f4"),
            "broadcast": np.broadcast_to(lease[0], (3, 6)),
            "empty": lease[:0],
        }
        outputs = client.infer("m", inputs).outputs
        assert handler.frames == [len(inputs)]
        for name, value in inputs.items():
            assert np.array_equal(outputs[name], value), name


def test_arithmetic_copies_and_pickles_are_ordinary_arrays(tmp_path):
    with leasing(tmp_path) as (client, _, handler):
        lease = client.lease((2, 3), np.float32)
        lease[...] = 2
        lease += 1
        assert type(lease) is LeasedArray and type(lease[0]) is LeasedArray
        plain = [lease * 2, -lease, lease.sum(axis=0), lease.copy(), copy.copy(lease), copy.deepcopy(lease)]
        plain += [pickle.loads(pickle.dumps(lease, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
        assert all(type(array) is np.ndarray for array in plain)
        assert all(np.array_equal(array, lease) for array in plain[3:])
        assert isinstance(lease.sum(), np.float32) and lease.sum() == 18
        client.infer("m", {f"x{i}": array for i, array in enumerate(plain)})
        assert handler.frames == [len(plain)]


# --- outputs


def test_outputs_go_into_the_block(tmp_path):
    with leasing(tmp_path) as (client, server, handler):
        block = client.lease(1024)
        inputs = {"a": np.arange(10, dtype=np.float32), "b": np.arange(5, dtype=np.int64).reshape(1, 5)}
        result = client.infer("m", inputs, outputs=block[128:640])
        request = server.requests[0]
        assert (request["outputs_offset"], request["outputs_bytes"]) == (128, 512)
        for name, value in inputs.items():
            assert np.array_equal(result.outputs[name], value) and not result.outputs[name].flags.writeable
        assert np.shares_memory(result.outputs["a"], block) and np.array_equal(block[192:232].view(np.int64), range(5))
        copied = pickle.loads(pickle.dumps(result))
        block[:] = 0
        assert not result.outputs["a"].any() and np.array_equal(copied.outputs["a"], inputs["a"])


def test_outputs_may_replace_the_inputs_of_their_query(tmp_path):
    with leasing(tmp_path) as (client, _, handler):
        lease = client.lease(16, np.float32)
        lease[:] = range(16)
        assert client.infer("m", {"a": lease[8:]}, outputs=lease).outputs["a"].tolist() == list(range(8, 16))
        assert lease[:8].tolist() == list(range(8, 16)) and handler.frames == [0]


def test_a_block_that_is_too_small_is_the_servers_error_and_can_be_used_again(tmp_path):
    with leasing(tmp_path) as (client, _, _):
        block = client.lease(64)
        error = error_of(client.submit("m", {"a": np.zeros(100, np.uint8)}, outputs=block))
        assert (error.status, error.field) == ("INVALID_ARGUMENT", "outputs_bytes")
        assert client.infer("m", {"a": np.full(50, 3, np.uint8)}, outputs=block).outputs["a"].sum() == 150


@pytest.mark.parametrize(
    "block", [np.zeros(64, np.uint8), [1, 2], "x", 0], ids=["ordinary memory", "a list", "a text", "a number"]
)
def test_outputs_outside_of_a_lease_are_refused(tmp_path, block):
    with leasing(tmp_path) as (client, server, _):
        lease = client.lease(64)
        for outputs in (block, lease[::2], lease[:0]):
            with pytest.raises(AbacusError) as caught:
                client.submit("m", {"a": [1.0]}, outputs=outputs)
            assert (caught.value.status, caught.value.field) == ("INVALID_ARGUMENT", "outputs")
        assert not server.requests


def test_memory_that_an_earlier_query_may_write_to_is_not_given_to_another(tmp_path):
    with leasing(tmp_path, receive_timeout=0.2) as (client, _, handler):
        lease = client.lease(1024)
        handler.held = []
        cancelled = client.submit("m", {"a": [1.0]}, outputs=lease[256:512])
        until(lambda: handler.held)
        assert cancelled.cancel()
        timed_out = client.submit("m", {"a": [1.0]}, outputs=lease[512:768])
        assert error_of(timed_out).status == "TIMEOUT"
        held, handler.held = handler.held, None
        for first, last in ((256, 512), (0, 257), (511, 600), (300, 301), (0, 1024), (767, 800)):
            with pytest.raises(AbacusError, match="an earlier query") as caught:
                client.submit("m", {"a": [1.0]}, outputs=lease[first:last])
            assert caught.value.field == "outputs"
            with pytest.raises(AbacusError, match="an earlier query") as caught:
                client.submit("m", {"a": lease[first:last]})
            assert caught.value.field == "inputs"
        assert client.infer("m", {"a": lease[:64]}, outputs=lease[64:256]).model == "m"
        # The answers come, late, before that of the next query: the memory is free again.
        handler.late = [handler.answer(header, [struct.pack("<d", 1.0)]) for header in held]
        assert client.infer("m", {"a": [2.0]}).model == "m"
        assert client.infer("m", {"a": [2.0]}, outputs=lease[256:768]).outputs["a"][0] == 2


@pytest.mark.parametrize(
    ("offset_of", "complaint"),
    [
        (lambda at, header: at - 64, "outside"),
        (lambda at, header: at + header["outputs_bytes"], "outside"),
        (lambda at, header: 2**63, "outside"),
        (lambda at, header: -1, "outside"),
        (lambda at, header: at + 32, "multiple of 64"),
        (lambda at, header: header["outputs_offset"], "two of them"),
        (lambda at, header: "here", "offset: expected int"),
    ],
)
def test_an_output_at_a_wrong_place_is_malformed(tmp_path, offset_of, complaint):
    with leasing(tmp_path) as (client, _, handler):
        lease = client.lease(512)
        handler.offset_of = offset_of
        inputs = {"a": np.zeros(4, np.float32), "b": np.zeros(4, np.float32)}
        error = error_of(client.submit("m", inputs, outputs=lease[128:384]))
        assert error.status == "INTERNAL" and complaint in error.message
        handler.offset_of = lambda at, header: at
        assert client.infer("m", inputs, outputs=lease[128:384]).model == "m"


def test_an_offset_without_a_block_is_malformed():
    def handler(header, frames):
        return [reply(header, outputs=[{"name": "y", "dtype": "int8", "shape": [1], "offset": 0}])]

    with serving(handler) as server, Client(server.address) as client:
        error = error_of(client.submit("m", {"x": [1.0]}))
        assert error.status == "INTERNAL" and "gave no block" in error.message


# --- its life


def test_a_block_is_not_put_over_what_the_server_may_still_have_to_read(tmp_path):
    with leasing(tmp_path) as (client, _, handler):
        lease = client.lease(1024)
        handler.held = []
        long = client.submit("m", {"a": lease[:200]})
        short = [client.submit("m", {"a": lease[at : at + 64]}) for at in (256, 256, 512)]
        until(lambda: len(handler.held) == 4)
        for first, last in ((0, 1), (199, 256), (200, 257), (319, 400), (500, 513), (64, 128), (0, 1024)):
            with pytest.raises(AbacusError, match="over inputs of an earlier query") as caught:
                client.submit("m", {"a": [1.0]}, outputs=lease[first:last])
            assert caught.value.field == "outputs"
        assert short[0].cancel()
        with pytest.raises(AbacusError, match="over inputs of an earlier query"):
            client.submit("m", {"a": [1.0]}, outputs=lease[256:320])  # those of the other one
        assert short[1].cancel() and long.cancel()
        handler.held = None
        assert client.infer("m", {"a": lease[600:664]}, outputs=lease[200:512]).model == "m"
        assert client.infer("m", {"a": lease[600:664]}, outputs=lease[:256]).model == "m"


@pytest.mark.parametrize("end", ["close", "with", "del", "view", "client", "dropped client"])
def test_a_lease_is_given_back(tmp_path, end):
    with leasing(tmp_path) as (client, server, handler):
        regions = handler.leases.regions
        lease = client.lease(64)
        until(lambda: len(regions) == 1)
        if end == "close":
            lease.close()
            lease.close()
        elif end == "with":
            with lease as entered:
                assert entered is lease
        elif end == "del":
            view = lease[1:5]
            del lease
            gc.collect()
            assert view.leased and len(regions) == 1, "a view keeps it"
            del view
        elif end == "view":
            lease[3:].close()
        elif end == "client":
            client.close()
        else:
            own = Client(server.address)
            other = own.lease(64)
            until(lambda: len(regions) == 2)
            del own
            lease.close()
            until(lambda: not other.leased)
        gc.collect()
        until(lambda: not regions)


def test_a_closed_lease_keeps_its_values_and_is_sent_like_any_array(tmp_path):
    with leasing(tmp_path) as (client, _, handler):
        with client.lease(4, np.int64) as lease:
            lease[:] = 5
        assert not lease.leased and lease.sum() == 20
        lease[0] = 6
        assert client.infer("m", {"x": lease}).outputs["x"].tolist() == [6, 5, 5, 5]
        assert handler.frames == [1]
        with pytest.raises(AbacusError, match="no open lease"):
            client.submit("m", {"x": [1.0]}, outputs=lease)


def test_a_query_in_flight_keeps_its_lease(tmp_path):
    with leasing(tmp_path) as (client, _, handler):
        handler.held = []
        lease, block = client.lease(4, np.int64), client.lease(256)
        lease[:] = 9
        future = client.submit("m", {"x": lease}, outputs=block)
        lease.close()
        block.close()
        del lease, block
        gc.collect()
        until(lambda: handler.held)
        time.sleep(0.05)
        assert len(handler.leases.regions) == 2
        handler.late, handler.held = [handler.answer(handler.held[0])], None
        client.infer("m", {"x": [1.0]})
        assert future.result(timeout=10).outputs["x"].tolist() == [9] * 4
        until(lambda: not handler.leases.regions)
        assert future.result().outputs["x"].tolist() == [9] * 4, "the array outlives the lease"


def test_when_the_server_goes_away_arrays_are_sent_like_any_other(tmp_path):
    with leasing(tmp_path) as (client, _, handler):
        lease = client.lease(4, np.int64)
        lease[:] = 3
        client.infer("m", {"x": lease})
        handler.leases.stop()
        until(lambda: not lease.leased)
        assert client.infer("m", {"x": lease}).outputs["x"].tolist() == [3] * 4
        assert handler.frames == [0, 1]
        with pytest.raises(AbacusError, match="lease.sock") as caught:
            client.lease(4)
        assert caught.value.status == "UNAVAILABLE"


def test_leases_leave_no_descriptor(tmp_path):
    with leasing(tmp_path) as (client, _, handler):
        client.infer("m", {"x": client.lease(8)})
        gc.collect()
        until(lambda: not handler.leases.regions)
        time.sleep(0.1)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(100):
            client.infer("m", {"x": client.lease(8)})
        gc.collect()
        until(lambda: not handler.leases.regions)
        until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_many_leases_are_told_apart(tmp_path):
    with leasing(tmp_path) as (client, _, handler):
        leases = [client.lease(3, np.int32) for _ in range(40)]
        for i, lease in enumerate(leases):
            lease[:] = i
        del leases[::3], lease
        gc.collect()
        for lease in leases:
            assert np.array_equal(client.infer("m", {"x": lease}).outputs["x"], lease)
        assert not any(handler.frames)


def test_another_clients_lease_is_ordinary_memory(tmp_path):
    with leasing(tmp_path) as (client, server, handler), Client(server.address) as other:
        lease = client.lease(4, np.int64)
        other.infer("m", {"x": lease})
        assert handler.frames == [1]


def test_a_forked_child_neither_uses_nor_keeps_a_lease(tmp_path):
    with leasing(tmp_path) as (client, _, handler):
        lease = client.lease(4, np.int64)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            told = b"none"
            try:
                client.lease(4)
            except AbacusError as error:
                told = f"{error.status} {lease.leased}".encode()
            os.write(write, told)
            os.close(write)
            time.sleep(3)
            os._exit(0)
        os.close(write)
        assert os.read(read, 100) == b"UNAVAILABLE False"
        assert lease.leased
        lease.close()
        until(lambda: not handler.leases.regions)  # although the child lives
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(read)


# --- refusals and malformed answers


def test_a_server_without_leases_says_so():
    with serving(echo) as server, Client(server.address) as client:
        with pytest.raises(AbacusError, match=r"gives no leases: \[server\] leases") as caught:
            client.lease(8)
        assert caught.value.status == "UNAVAILABLE"


def test_a_server_elsewhere_says_so(tmp_path, monkeypatch):
    with leasing(tmp_path) as (client, _, handler):
        monkeypatch.setattr(client, "address", "tcp://192.0.2.7:5570")  # of no machine
        with pytest.raises(AbacusError, match="on another machine") as caught:
            client.lease(8)
        assert caught.value.status == "UNAVAILABLE" and not handler.leases.asked


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((-1,), "shape"),
        ((1.5,), "shape"),
        (("ten",), "shape"),
        ((None,), "shape"),
        ((True,), "shape"),
        (((2, -1),), "shape"),
        (((2**62, 4),), "shape"),
        ((4, "complex64"), "dtype"),
        ((4, "nonsense"), "dtype"),
        ((4, object), "dtype"),
        ((4, ">f4"), "dtype"),
    ],
)
def test_what_is_no_shape_or_type_is_refused(tmp_path, arguments, field):
    with leasing(tmp_path) as (client, _, handler):
        with pytest.raises(AbacusError) as caught:
            client.lease(*arguments)
        assert (caught.value.status, caught.value.field) == ("INVALID_ARGUMENT", field)
        assert not handler.leases.asked


def test_the_servers_refusal_is_raised(tmp_path):
    with leasing(tmp_path, lambda size: (struct.pack("<QQQ", 3, 0, 0), [])) as (client, _, _):
        with pytest.raises(AbacusError, match="refuses a lease of 100 bytes .*max_client_mib") as caught:
            client.lease(100)
        assert caught.value.status == "OVERLOADED"


@pytest.mark.parametrize(
    ("answer", "status", "complaint"),
    [
        (lambda size: (b"", []), "UNAVAILABLE", "ended the connection"),
        (lambda size: (OK[:23], [memory(4096)]), "UNAVAILABLE", "ended the connection"),
        (lambda size: (OK, []), "INTERNAL", "0 descriptors"),
        (lambda size: (OK, [memory(4096), memory(4096)]), "INTERNAL", "2 descriptors"),
        (lambda size: (struct.pack("<QQQ", 0, 7, 99), [memory(4096)]), "INTERNAL", "99 bytes instead of 100"),
        (lambda size: (struct.pack("<QQQ", 0, 0, 4096), [memory(4096)]), "INTERNAL", "region 0"),
        (lambda size: (OK, [memory(4095)]), "INTERNAL", "4095 bytes for 4096"),
        (lambda size: (OK, [memory(4096, 0)]), "INTERNAL", "not sealed"),
        (lambda size: (OK, [os.open("/dev/zero", os.O_RDWR)]), "INTERNAL", "descriptor of 0 bytes"),
        (lambda size: (struct.pack("<QQQ", 999, 7, 4096), [memory(4096)]), "INTERNAL", "unknown status 999"),
        (lambda size: (struct.pack("<QQQ", 0, 7, 2**64 - 1), [memory(4096)]), "INTERNAL", "4096 bytes for"),
    ],
)
def test_a_malformed_answer_is_an_error_and_leaves_nothing(tmp_path, answer, status, complaint):
    with leasing(tmp_path, answer) as (client, _, _):
        before = None
        for _ in range(3):
            with pytest.raises(AbacusError, match=complaint) as caught:
                client.lease(100)
            assert caught.value.status == status
            del caught
            gc.collect()
            time.sleep(0.05)
            before = before or len(os.listdir("/proc/self/fd"))
        assert len(os.listdir("/proc/self/fd")) <= before + 1
        assert client.infer("m", {"x": [1.0]}).model == "m"


def test_an_answer_in_pieces_is_put_together(tmp_path):
    with leasing(tmp_path) as (client, _, handler):
        serve = handler.leases._serve

        class Slow:
            def __init__(self, connection):
                self.connection = connection

            def __getattr__(self, name):
                return getattr(self.connection, name)

            def sendmsg(self, buffers, ancillary=(), *rest):
                data = b"".join(buffers)
                self.connection.sendmsg([data[:5]], ancillary)
                time.sleep(0.05)
                return 5 + self.connection.send(data[5:])

        handler.leases._serve = lambda connection: serve(Slow(connection))
        assert client.lease(8).leased


def test_a_server_that_does_not_answer_is_a_timeout(tmp_path):
    done = threading.Event()

    def answer(size):
        done.wait(10)
        return b"", []

    with leasing(tmp_path, answer, receive_timeout=0.2) as (client, _, _):
        with pytest.raises(AbacusError, match=r"no lease from .* within 0\.2 s") as caught:
            client.lease(8)
        assert caught.value.status == "TIMEOUT"
        done.set()


def test_a_malformed_lease_path_is_a_malformed_reply():
    with serving(echo, limits={"lease": 7}) as server:
        with pytest.raises(AbacusError, match="lease: expected str"):
            Client(server.address, connect_timeout=5)
