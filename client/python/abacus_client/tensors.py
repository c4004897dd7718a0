"""Between numpy arrays and the raw tensor frames of the protocol: dense, row-major, little endian."""

from __future__ import annotations

import math

import numpy as np

from .errors import AbacusError

MAX_RANK = 8

# bfloat16 is unknown to numpy and travels in uint16 arrays.
NUMPY_DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "float64": np.dtype("<f8"),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
}


def to_wire(value: object, field: str) -> tuple[str, list[int], memoryview | bytes]:
    """dtype name, shape and bytes of an input: an array, or a pair (uint16 array, "bfloat16")."""
    explicit: str | None = None
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str):
        value, explicit = value
    array = np.asarray(value, order="C")
    if explicit is not None and (explicit != "bfloat16" or array.dtype != np.uint16):
        raise AbacusError(
            "INVALID_ARGUMENT",
            f"got {array.dtype} as {explicit}; a pair is (uint16 array, 'bfloat16')",
            f"{field}.dtype",
        )
    name = explicit or array.dtype.name
    if name not in NUMPY_DTYPES:
        hint = "; pass (array, 'bfloat16') if it holds bfloat16" if name == "uint16" else ""
        raise AbacusError("INVALID_ARGUMENT", f"dtype {name} cannot be sent{hint}", f"{field}.dtype")
    if array.ndim > MAX_RANK:
        raise AbacusError("INVALID_ARGUMENT", f"{array.ndim} dimensions; at most {MAX_RANK}", f"{field}.shape")
    array = array.astype(NUMPY_DTYPES[name], copy=False)  # big-endian arrays
    data = array.reshape(-1).view(np.uint8).data if array.size else b""
    return name, list(array.shape), data


def from_wire(dtype: str, shape: list[int], data: memoryview) -> np.ndarray:
    """A read-only array over `data`, which it keeps alive; a copy only where the bytes are not aligned.

    Raises ValueError when sizes do not fit.
    """
    numpy_dtype = NUMPY_DTYPES[dtype]
    expected = math.prod(shape) * numpy_dtype.itemsize
    if data.nbytes != expected:
        raise ValueError(f"{data.nbytes} bytes for {dtype}{shape}, which needs {expected}")
    array = np.frombuffer(data, dtype=numpy_dtype).reshape(shape) if expected else np.empty(shape, numpy_dtype)
    if not array.flags.aligned:
        array = array.copy()
    array.flags.writeable = False
    return array


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Rounds to the nearest bfloat16 (ties to even) and returns its bits as uint16."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # Rounding may carry a NaN's mantissa over into infinity or the sign.
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)
