"""Headers of the wire protocol, version 1: requests to bytes, replies from bytes that nobody vouches for.

client/protocol.h is the reference: the same keys, names and limits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from .errors import STATUSES, AbacusError
from .leases import Leases, Span
from .tensors import MAX_RANK, NUMPY_DTYPES, from_wire, to_wire

VERSION = 1
MAX_HEADER_BYTES = 64 * 1024
MAX_TENSORS = 16
MAX_NAME_BYTES = 128
MAX_SERVICES = 64
MAX_U64 = 2**64 - 1


@dataclass(frozen=True)
class Timing:
    """Microseconds, measured at the controller."""

    queued_us: int = 0  # arrival until the round of its first operator range began
    executed_us: int = 0  # sum over its rounds
    total_us: int = 0  # arrival until the reply was handed to the socket
    rounds: int = 0
    predicted_us: int = 0  # of a whole pass alone, when its job was formed; 0: no prediction


@dataclass(frozen=True)
class Result:
    outputs: dict[str, np.ndarray]  # read-only; bfloat16 as float32
    dtypes: dict[str, str]  # the outputs' dtype names in the protocol
    timing: Timing
    model: str
    status: str = "OK"
    digest: str = ""  # of the model that answered: the first 16 hexadecimal digits


@dataclass(frozen=True)
class TensorDescription:
    name: str
    dtype: str
    dims: tuple[str, ...]  # a number, "batch" or "sequence"
    range: tuple[int, int] | None = None  # allowed values, integer inputs
    range_to_sequence: bool = False  # the highest is the query's own sequence length; `range` has the longest one
    float_range: tuple[float, float] | None = None  # allowed values, float inputs; NaN and infinities are not


@dataclass(frozen=True)
class ModelDescription:
    name: str
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]
    batch_sizes: tuple[int, ...]
    sequence_lengths: tuple[int, ...]  # empty without a sequence dimension
    qos_us: int  # default latency target
    batchable: bool = True  # False: rows of a batch depend on each other, only the batch sizes listed are served
    # What padding along the sequence does: "" nothing, "allowed" it changes answers and that was accepted, "exact" only
    # the lengths listed are served.
    sequence_padding: str = ""
    digest: str = ""  # of description and model file, 64 hexadecimal digits


@dataclass(frozen=True)
class ServiceHealth:
    name: str
    state: str  # "starting", "ready", "failed", "restarting"
    worker_pid: int
    queued: int
    restarts: int
    message: str  # why it is not ready


@dataclass(frozen=True)
class Health:
    ready: bool
    services: tuple[ServiceHealth, ...]
    max_frame_bytes: int = 0  # largest tensor that the server takes; 0: it does not say
    max_message_bytes: int = 0  # largest message, header and tensors together
    lease: str = ""  # socket that gives memory shared with the server; empty: there is none


@dataclass
class Reply:
    id: int
    status: str
    message: str = ""
    field: str = ""
    result: Result | None = None  # of an OK reply to infer
    models: tuple[ModelDescription, ...] = ()
    health: Health = Health(False, ())
    timing: Timing = Timing()
    max_frame_bytes: int = 0  # of replies to models and health, as in Health
    max_message_bytes: int = 0
    lease: str = ""


class MalformedReply(Exception):
    """A reply that breaks the protocol; `id` where it could still be read."""

    def __init__(self, message: str, reply_id: int | None = None) -> None:
        super().__init__(message)
        self.id = reply_id


@dataclass
class Query:
    """A request as it goes out, and what must live until its reply is there."""

    frames: list[Any]  # header, then the tensors that lie in no lease
    framed: list[int]  # their indices among the inputs
    spans: list[Span]  # of the inputs that do
    block: Span | None = None  # for the outputs


def encode_infer(
    request_id: int,
    model: str,
    inputs: dict[str, object],
    qos_us: int,
    leases: Leases | None = None,
    block: Span | None = None,
) -> Query:
    """An inference request. Inputs that lie in one of `leases` are named by their place there."""
    if not inputs:
        raise AbacusError("INVALID_ARGUMENT", "a query needs at least one input", "inputs")
    if len(inputs) > MAX_TENSORS:
        raise AbacusError("INVALID_ARGUMENT", f"{len(inputs)} inputs; at most {MAX_TENSORS}", "inputs")
    headers = []
    query = Query([b""], [], [], block)
    for i, (name, value) in enumerate(inputs.items()):
        _check_name(name, f"inputs[{i}].name")
        dtype, shape, data = to_wire(value, f"inputs[{i}]")
        entry: dict[str, Any] = {"name": name, "dtype": dtype, "shape": shape}
        span = leases.span_of(data.obj) if leases is not None and isinstance(data, memoryview) else None
        if span is None:
            query.frames.append(data)
            query.framed.append(i)
        else:
            entry |= {"region": span.grant.id, "offset": span.offset}
            query.spans.append(span)
        headers.append(entry)
    rest: dict[str, Any] = {"inputs": headers}
    if block is not None:
        rest |= {"outputs_region": block.grant.id, "outputs_offset": block.offset, "outputs_bytes": block.size}
    query.frames[0] = _infer_header(request_id, model, qos_us, rest)
    return query


def encode_synthetic(request_id: int, model: str, batch: int, sequence: int, qos_us: int) -> Query:
    frame = _infer_header(request_id, model, qos_us, {"synthetic": {"batch": batch, "sequence": sequence}})
    return Query([frame], [], [])


def encode_question(request_id: int, kind: str) -> Query:
    return Query([msgpack.packb({"v": VERSION, "type": kind, "id": request_id})], [], [])


def encode_cancel(request_id: int) -> list[Any]:
    """The frames that take a query back; no reply of their own follows."""
    return [msgpack.packb({"v": VERSION, "type": "cancel", "id": request_id})]


def _infer_header(request_id: int, model: str, qos_us: int, rest: dict[str, Any]) -> bytes:
    _check_name(model, "model")
    if not 0 <= qos_us <= MAX_U64:
        raise AbacusError("INVALID_ARGUMENT", f"qos_us {qos_us} is not a number of microseconds", "qos_us")
    header: dict[str, Any] = {"v": VERSION, "type": "infer", "id": request_id, "model": model}
    if qos_us:
        header["qos_us"] = qos_us
    return msgpack.packb(header | rest)


def _check_name(name: str, path: str) -> None:
    if not name or len(name.encode()) > MAX_NAME_BYTES:
        raise AbacusError("INVALID_ARGUMENT", f"name {name!r} must have 1 to {MAX_NAME_BYTES} bytes", path)


def decode_reply(frames: list[memoryview], block_of: Callable[[int], Span | None] = lambda _: None) -> Reply:
    """Decodes and checks one reply. Raises MalformedReply. block_of: from a query's id to its block for outputs."""
    header = _unpack(frames[0])
    reply_id = header.get("id")
    if not isinstance(reply_id, int) or isinstance(reply_id, bool):
        raise MalformedReply("id is missing or no integer")
    try:
        return _decode(header, reply_id, frames[1:], block_of(reply_id))
    except MalformedReply as error:
        error.id = reply_id
        raise


def _unpack(data: memoryview) -> dict[str, Any]:
    if data.nbytes > MAX_HEADER_BYTES:
        raise MalformedReply(f"header of {data.nbytes} bytes; at most {MAX_HEADER_BYTES}")
    try:
        header = msgpack.unpackb(
            data,
            max_str_len=MAX_HEADER_BYTES,
            max_bin_len=MAX_HEADER_BYTES,
            max_ext_len=MAX_HEADER_BYTES,
            max_array_len=1024,
            max_map_len=256,
        )
    except Exception as error:  # msgpack raises ValueError and its own classes, UnicodeDecodeError among them
        raise MalformedReply(f"header is not msgpack ({error})") from error
    if not isinstance(header, dict):
        raise MalformedReply("header is no msgpack map")
    return header


def _decode(header: dict[str, Any], reply_id: int, frames: list[memoryview], block: Span | None) -> Reply:
    if header.get("v") != VERSION:
        raise MalformedReply(f"protocol version {header.get('v')!r}; this client speaks {VERSION}")
    status = _get(header, "status", str, None)
    if status not in STATUSES:
        raise MalformedReply(f"unknown status {status!r}")
    timing_map = _get(header, "timing", dict, {})
    timing = Timing(**{key: _get(timing_map, key, int, 0, "timing.") for key in Timing.__dataclass_fields__})
    arrays, dtypes = _outputs(_list(header, "outputs", MAX_TENSORS), frames, block)
    services = tuple(
        ServiceHealth(
            _get(item, "name", str, "", path := f"services[{i}]."),
            _get(item, "state", str, "", path),
            _get(item, "pid", int, 0, path),
            _get(item, "queued", int, 0, path),
            _get(item, "restarts", int, 0, path),
            _get(item, "message", str, "", path),
        )
        for i, item in enumerate(_list(header, "services", MAX_SERVICES))
    )
    max_frame_bytes, max_message_bytes = (_get(header, key, int, 0) for key in ("max_frame_bytes", "max_message_bytes"))
    lease = _get(header, "lease", str, "")
    return Reply(
        id=reply_id,
        status=status,
        message=_get(header, "message", str, ""),
        field=_get(header, "field", str, ""),
        result=Result(arrays, dtypes, timing, _get(header, "model", str, ""), digest=_get(header, "digest", str, "")),
        models=tuple(_model(item, f"models[{i}].") for i, item in enumerate(_list(header, "models", MAX_SERVICES))),
        health=Health(_get(header, "ready", bool, False), services, max_frame_bytes, max_message_bytes, lease),
        timing=timing,
        max_frame_bytes=max_frame_bytes,
        max_message_bytes=max_message_bytes,
        lease=lease,
    )


def _outputs(
    outputs: list[dict[str, Any]], frames: list[memoryview], block: Span | None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and dtype names. An entry with an offset lies in `block`, the others have a frame each, in order."""
    framed = sum("offset" not in output for output in outputs)
    if len(frames) != framed:
        raise MalformedReply(f"{len(frames)} tensor frames for {framed} outputs")
    waiting = iter(frames)
    arrays, dtypes, placed = {}, {}, []
    for i, output in enumerate(outputs):
        path = f"outputs[{i}]."
        name, dtype, shape = _get(output, "name", str, None, path), _dtype(output, path), _shape(output, path)
        try:
            if "offset" not in output:
                data = next(waiting)
            elif block is None:
                raise ValueError("the query gave no block for outputs")
            else:
                offset, size = _get(output, "offset", int, None, path), math.prod(shape) * NUMPY_DTYPES[dtype].itemsize
                data = block.bytes_at(offset, size)
                placed.append((offset, offset + size))
            arrays[name], dtypes[name] = from_wire(dtype, shape, data), dtype
        except ValueError as error:
            raise MalformedReply(f"{path}{'offset' if 'offset' in output else 'shape'}: {error}") from error
    placed.sort()
    for (_, last), (first, _) in itertools.pairwise(placed):
        if first < last:
            raise MalformedReply(f"outputs: two of them lie at offset {first}")
    return arrays, dtypes


def _model(item: dict[str, Any], path: str) -> ModelDescription:
    return ModelDescription(
        _get(item, "name", str, None, path),
        _tensor_descriptions(item, "inputs", path),
        _tensor_descriptions(item, "outputs", path),
        _integers(item, "batch", path),
        _integers(item, "sequence", path),
        _get(item, "qos_us", int, 0, path),
        _get(item, "batchable", bool, True, path),
        _get(item, "sequence_padding", str, "", path),
        _get(item, "digest", str, "", path),
    )


def _tensor_descriptions(item: dict[str, Any], key: str, path: str) -> tuple[TensorDescription, ...]:
    descriptions = []
    for i, tensor in enumerate(_list(item, key, MAX_TENSORS, path)):
        where = f"{path}{key}[{i}]."
        dims = _get(tensor, "dims", list, [], where)
        if not all(isinstance(dim, str) for dim in dims):
            raise MalformedReply(f"{where}dims: expected strings")
        descriptions.append(
            TensorDescription(
                _get(tensor, "name", str, None, where),
                _dtype(tensor, where),
                tuple(dims),
                _range(tensor, "range", int, where),
                _get(tensor, "range_to_sequence", bool, False, where),
                _range(tensor, "float_range", (int, float), where),
            )
        )
    return tuple(descriptions)


def _get(item: dict[str, Any], key: str, kind: type, default: Any, path: str = "") -> Any:
    """item[key] of the wanted type; `default` where it is missing, which None forbids."""
    value = item.get(key, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise MalformedReply(f"{path}{key}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def _list(item: dict[str, Any], key: str, limit: int, path: str = "") -> list[dict[str, Any]]:
    value = _get(item, key, list, [], path)
    if len(value) > limit or not all(isinstance(entry, dict) for entry in value):
        raise MalformedReply(f"{path}{key}: expected at most {limit} maps")
    return value


def _integers(item: dict[str, Any], key: str, path: str) -> tuple[int, ...]:
    value = _get(item, key, list, [], path)
    if not all(isinstance(entry, int) and not isinstance(entry, bool) for entry in value):
        raise MalformedReply(f"{path}{key}: expected integers")
    return tuple(value)


def _range(item: dict[str, Any], key: str, kinds: Any, path: str) -> tuple[Any, Any] | None:
    if key not in item:
        return None
    value = _get(item, key, list, [], path)
    if len(value) != 2 or not all(isinstance(bound, kinds) and not isinstance(bound, bool) for bound in value):
        raise MalformedReply(f"{path}{key}: expected two numbers")
    if not value[0] <= value[1] or not all(math.isfinite(bound) for bound in value):
        raise MalformedReply(f"{path}{key}: expected [lowest, highest], not {value}")
    return value[0], value[1]


def _dtype(item: dict[str, Any], path: str) -> str:
    dtype = _get(item, "dtype", str, None, path)
    if dtype not in NUMPY_DTYPES:
        raise MalformedReply(f"{path}dtype: unknown {dtype!r}")
    return dtype


def _shape(item: dict[str, Any], path: str) -> list[int]:
    shape = _integers(item, "shape", path)
    if len(shape) > MAX_RANK or any(dim < 0 for dim in shape):
        raise MalformedReply(f"{path}shape: {list(shape)} is no shape of at most {MAX_RANK} dimensions")
    return list(shape)
