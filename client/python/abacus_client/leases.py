"""Memory shared with a server of the same machine and user, so that tensors need not travel through the socket.

A lease is one connection to the server's lease socket and one region of memory that came back over it. The server keeps
its side of the region while that connection lives; the mapping here lives while anything refers to it, so an array
never points at memory that is gone. What both of these mean is in three classes:

    Grant       the connection. Whoever still needs the server's side holds it: the lease, and queries in flight.
    Region      the mapping. Arrays hold it. It holds the grant until its lease is closed.
    LeasedArray what a user has: an array over a region.

Thread rule: a LeasedArray is as safe as any array; everything else may be called from any thread.
"""

from __future__ import annotations

import array
import bisect
import contextlib
import fcntl
import math
import mmap
import operator
import os
import socket
import struct
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import STATUSES, AbacusError
from .tensors import NUMPY_DTYPES

ALIGNMENT_BYTES = 64  # of every output in a block
_REQUEST = struct.Struct("<Q")  # wanted bytes
_ANSWER = struct.Struct("<QQQ")  # status, region, bytes
_LARGEST_BYTES = 2**48
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Grant:
    """The server's side of one region, given back when nobody holds this object any more."""

    def __init__(self, connection: socket.socket, region_id: int) -> None:
        self.id = region_id
        self._connection = connection
        self._pid = os.getpid()
        weakref.finalize(self, _give_back, connection, self._pid)
        _grants.add(self)

    def is_alive(self) -> bool:
        """Whether the server still holds it: it says nothing over this connection but that it ended."""
        try:
            self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return os.getpid() == self._pid
        except OSError:
            pass
        return False


def _give_back(connection: socket.socket, pid: int) -> None:
    if os.getpid() == pid:  # a forked child has a copy of the descriptor, and no business with the connection
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    connection.close()


_grants: weakref.WeakSet[Grant] = weakref.WeakSet()


def _forget_grants() -> None:
    # Else the lease of a parent that died would live on with its child.
    for grant in list(_grants):
        grant._connection.close()


os.register_at_fork(after_in_child=_forget_grants)


class Region(mmap.mmap):
    """The mapping of one lease."""

    grant: Grant | None
    address: int  # of the first byte

    def __init__(self, *_: Any, **__: Any) -> None:
        self.lock = threading.Lock()
        self.writing: list[tuple[int, int]] = []  # [first, last) that queries in flight may write; ascending, disjoint
        self.reading: list[tuple[int, int]] = []  # [first, last) of inputs of queries in flight; ascending
        self.longest_read = 0  # bytes, of all that there ever were

    def overlaps(self, first: int, last: int) -> bool:
        with self.lock:
            return self._overlaps(first, last)

    def claim(self, first: int, last: int) -> bool:
        """Reserves [first, last) for the outputs of a query; false where another one may still write there."""
        with self.lock:
            if self._overlaps(first, last):
                return False
            bisect.insort(self.writing, (first, last))
            return True

    def release(self, first: int, last: int) -> None:
        with self.lock:
            self.writing.remove((first, last))

    def begin_read(self, first: int, last: int) -> None:
        with self.lock:
            bisect.insort(self.reading, (first, last))
            self.longest_read = max(self.longest_read, last - first)

    def end_read(self, first: int, last: int) -> None:
        with self.lock:
            self.reading.remove((first, last))

    def holds_inputs(self, first: int, last: int) -> bool:
        with self.lock:
            # Those that begin earlier by more than the longest end in front of it.
            begin = bisect.bisect_left(self.reading, (first - self.longest_read, 0))
            end = bisect.bisect_left(self.reading, (last, 0))
            return any(read[1] > first for read in self.reading[begin:end])

    def _overlaps(self, first: int, last: int) -> bool:
        i = bisect.bisect_left(self.writing, (last, last))
        return i > 0 and self.writing[i - 1][1] > first


@dataclass(frozen=True, eq=False)
class Span:
    """Bytes [offset, offset + size) of a region, and the grant that keeps the server's side of it."""

    region: Region
    grant: Grant
    offset: int
    size: int

    def bytes_at(self, offset: int, size: int) -> memoryview:
        """Read-only bytes of an output, as a reply names them. Raises ValueError where they lie outside."""
        if not (self.offset <= offset and offset + size <= self.offset + self.size):
            raise ValueError(f"offset {offset} and {size} bytes lie outside of the block that was given for outputs")
        if (offset - self.offset) % ALIGNMENT_BYTES:
            raise ValueError(f"offset {offset} is no multiple of {ALIGNMENT_BYTES} from the begin of the block")
        return memoryview(self.region)[offset : offset + size].toreadonly()


class LeasedArray(np.ndarray):
    """A writable array in memory shared with the server. Views of it are leased too; results of arithmetic, copies
    and what is pickled are ordinary arrays.

    close(), or the end of a `with` block, gives the lease back once the queries in flight that use it are done. So does
    dropping the last array that lies in it. After close() the array keeps its values, as ordinary memory.
    """

    _region: Region | None = None

    def __array_finalize__(self, source: Any) -> None:
        # Views share the region; a copy has memory of its own.
        region = getattr(source, "_region", None)
        if region is not None and _span_within(region, self) is not None:
            self._region = region

    def __array_wrap__(self, result: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
        if result is self:  # in place
            return self
        plain = np.asarray(result)
        return plain[()] if plain.ndim == 0 else plain

    def close(self) -> None:
        if self._region is not None:
            self._region.grant = None

    @property
    def leased(self) -> bool:
        """Whether queries are still sent without copying it: the lease is open and the server there."""
        grant = self._region.grant if self._region is not None else None
        return grant is not None and grant.is_alive()

    def __enter__(self) -> LeasedArray:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def copy(self, order: Any = "C") -> np.ndarray:
        return np.array(self, order=order, copy=True, subok=False)

    def __copy__(self) -> np.ndarray:
        return self.copy()

    def __deepcopy__(self, _: Any) -> np.ndarray:
        return self.copy()

    def __reduce__(self) -> Any:
        return self.copy().__reduce__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.copy().__reduce_ex__(protocol)


class Leases:
    """The leases of one client."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By address; replaced as a whole. One that is gone stays until the next comes, which may get its address.
        self._regions: tuple[tuple[int, weakref.ref[Region]], ...] = ()

    def add(self, path: str, shape: tuple[int, ...], dtype: np.dtype, timeout_s: float) -> LeasedArray:
        size = math.prod(shape) * dtype.itemsize
        region = _open_region(path, max(1, size), timeout_s)
        leased = np.frombuffer(region, np.uint8, size).view(dtype).reshape(shape).view(LeasedArray)
        leased._region = region
        with self._lock:
            alive = [entry for entry in self._regions if entry[1]() is not None]
            self._regions = tuple(sorted([*alive, (region.address, weakref.ref(region))], key=operator.itemgetter(0)))
        return leased

    def span_of(self, data: np.ndarray) -> Span | None:
        """Where `data`, a dense array, lies in a lease that is open; None: in ordinary memory."""
        regions = self._regions
        i = bisect.bisect_right(regions, data.__array_interface__["data"][0], key=operator.itemgetter(0)) - 1
        region = regions[i][1]() if i >= 0 else None
        grant = region.grant if region is not None else None
        if grant is None or (inside := _span_within(region, data)) is None:
            return None
        if not grant.is_alive():  # the server went away; the memory is still good
            region.grant = None
            return None
        return Span(region, grant, *inside)

    def close(self) -> None:
        for _, reference in self._regions:
            if (region := reference()) is not None:
                region.grant = None


def socket_path(address: str, told: str) -> str:
    """The lease socket of the server at `address`, which says that it is `told`. AbacusError where there is none."""
    if not told:
        raise AbacusError(
            "UNAVAILABLE",
            f"the server at {address} gives no leases: [server] leases of its configuration is off, or it is older",
        )
    if address.startswith("ipc://") and not address.startswith("ipc://@"):
        # Beside its socket: the folder may have another name here than there.
        return os.path.join(os.path.dirname(address.removeprefix("ipc://")), os.path.basename(told))
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if address.startswith("tcp://") and not _is_here(host):
        raise AbacusError(
            "UNAVAILABLE", f"the server at {address} is on another machine; leases are for clients on the server's own"
        )
    return told


def _is_here(host: str) -> bool:
    """Whether an address of `host` is one of this machine's: then a socket can have it."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    for family, kind, protocol, _, where in found:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.bind(where)
            return True
    return False


def as_shape(shape_or_bytes: Any, dtype: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of a lease. AbacusError (INVALID_ARGUMENT) for what is none."""
    try:
        numpy_dtype = np.dtype(dtype)
    except TypeError as error:
        raise AbacusError("INVALID_ARGUMENT", f"dtype {dtype!r}: {error}", "dtype") from error
    if numpy_dtype not in NUMPY_DTYPES.values():
        known = ", ".join(name for name in NUMPY_DTYPES if name != "bfloat16")
        raise AbacusError("INVALID_ARGUMENT", f"dtype {numpy_dtype} cannot be leased; one of {known}, uint16", "dtype")
    try:
        sizes = shape_or_bytes if isinstance(shape_or_bytes, (tuple, list)) else (shape_or_bytes,)
        if any(isinstance(size, (bool, np.bool_)) for size in sizes):
            raise TypeError("a truth value is no size")
        shape = tuple(operator.index(size) for size in sizes)
    except TypeError as error:
        raise AbacusError("INVALID_ARGUMENT", f"shape {shape_or_bytes!r}: {error}", "shape") from error
    if any(size < 0 for size in shape) or math.prod(shape) * numpy_dtype.itemsize > _LARGEST_BYTES:
        raise AbacusError("INVALID_ARGUMENT", f"shape {shape_or_bytes!r} is no size of a lease", "shape")
    return shape, numpy_dtype


def _span_within(region: Region, data: np.ndarray) -> tuple[int, int] | None:
    """Offset and size of a dense array in a region."""
    offset = data.__array_interface__["data"][0] - region.address
    return (offset, data.nbytes) if 0 <= offset and offset + data.nbytes <= len(region) else None


def _open_region(path: str, size: int, timeout_s: float) -> Region:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    descriptors: list[int] = []
    try:
        connection.settimeout(min(timeout_s, threading.TIMEOUT_MAX) if timeout_s != math.inf else None)
        answer = _exchange(connection, path, size, descriptors)
        region_id, mapped = _check(answer, descriptors, path, size)
        try:
            region = Region(descriptors[0], mapped)
        except (OSError, ValueError) as error:
            raise AbacusError("UNAVAILABLE", f"the lease of {mapped} bytes from {path}: {error}") from error
        connection.setblocking(False)
        region.address = np.frombuffer(region, np.uint8).__array_interface__["data"][0]
        region.grant = Grant(connection, region_id)
        return region
    except BaseException:
        connection.close()
        raise
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _exchange(connection: socket.socket, path: str, size: int, descriptors: list[int]) -> bytes:
    """The server's answer; appends the descriptors that came with it."""
    answer = b""
    try:
        connection.connect(path)
        connection.sendall(_REQUEST.pack(size))
        while len(answer) < _ANSWER.size:
            data, ancillary, _, _ = connection.recvmsg(
                _ANSWER.size - len(answer), socket.CMSG_SPACE(4 * 8), socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    received = array.array("i")
                    received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
                    descriptors.extend(received)
            if not data:
                raise AbacusError(
                    "UNAVAILABLE",
                    f"{path} ended the connection without a lease: it serves processes of its own user and root only",
                )
            answer += data
    except TimeoutError as error:
        raise AbacusError("TIMEOUT", f"no lease from {path} within {connection.gettimeout():g} s") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise AbacusError(
            "UNAVAILABLE",
            f"no lease from {path}: {error}; leases are for clients on the server's machine, of its user or root",
        ) from error
    return answer


def _check(answer: bytes, descriptors: list[int], path: str, size: int) -> tuple[int, int]:
    """Region and size of a well-formed answer; AbacusError for the server's refusal and for any other answer."""
    status, region_id, mapped = _ANSWER.unpack(answer)
    if 0 < status < len(STATUSES):
        hint = " ([limits] max_client_mib bounds all leases of a client)" if STATUSES[status] == "OVERLOADED" else ""
        raise AbacusError(STATUSES[status], f"{path} refuses a lease of {size} bytes{hint}")
    wrong = ""
    if status != 0:
        wrong = f"unknown status {status}"
    elif len(descriptors) != 1:
        wrong = f"{len(descriptors)} descriptors instead of one"
    elif region_id == 0:
        wrong = "region 0, which is none"
    elif mapped < size:
        wrong = f"{mapped} bytes instead of {size}"
    elif os.fstat(descriptors[0]).st_size < mapped:
        wrong = f"a descriptor of {os.fstat(descriptors[0]).st_size} bytes for {mapped}"
    elif _seals(descriptors[0]) & _SEALS != _SEALS:
        wrong = "memory that is not sealed: it could shrink under an array"
    if wrong:
        raise AbacusError("INTERNAL", f"malformed lease from {path}: {wrong}")
    return region_id, mapped


def _seals(descriptor: int) -> int:
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:  # no memfd
        return 0
