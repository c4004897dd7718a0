"""Between numpy arrays and the raw tensor frames of the protocol: dense, row-major, little endian."""

from __future__ import annotations

import math
import sys
from types import ModuleType
from typing import Any

import numpy as np

from .errors import AbacusError

MAX_RANK = 8

# As they travel. bfloat16 is unknown to numpy: its bits.
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
    """dtype name, shape and bytes of an input.

    An input is anything that numpy makes an array of, a torch tensor (of any device, detached and copied to the host
    where it has to be), or a pair (uint16 array, "bfloat16").
    """
    explicit: str | None = None
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str):
        value, explicit = value
    array, name = _to_array(value, field)
    if explicit is not None:
        if explicit != "bfloat16" or name != "uint16":
            raise AbacusError(
                "INVALID_ARGUMENT",
                f"got {name} as {explicit}; a pair is (uint16 array, 'bfloat16')",
                f"{field}.dtype",
            )
        name = explicit
    if name not in NUMPY_DTYPES:
        hint = "; pass (array, 'bfloat16') if it holds bfloat16" if name == "uint16" else ""
        raise AbacusError("INVALID_ARGUMENT", f"dtype {name} cannot be sent{hint}", f"{field}.dtype")
    if array.ndim > MAX_RANK:
        raise AbacusError("INVALID_ARGUMENT", f"{array.ndim} dimensions; at most {MAX_RANK}", f"{field}.shape")
    array = array.astype(NUMPY_DTYPES[name], copy=False)  # big-endian arrays
    data = array.reshape(-1).view(np.uint8).data if array.size else b""
    return name, list(array.shape), data


def _to_array(value: object, field: str) -> tuple[np.ndarray, str]:
    """A row-major array and the name of its type; the bits of bfloat16 as uint16."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _torch_to_array(torch, value, field)
    try:
        array = np.asarray(value, order="C")
    except Exception as error:  # lists of unequal length, objects whose __array__ fails
        raise AbacusError("INVALID_ARGUMENT", f"{type(value).__name__} is no array: {error}", field) from error
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise AbacusError("INVALID_ARGUMENT", "the array has masked elements, which have no value to send", field)
    if array.dtype.name == "bfloat16":  # of ml_dtypes, which JAX uses, too: its bits, not its values
        return array.view(np.uint16), "bfloat16"
    return array, array.dtype.name


def _torch_to_array(torch: ModuleType, tensor: Any, field: str) -> tuple[np.ndarray, str]:
    try:
        tensor = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        if tensor.dtype == torch.bfloat16:  # numpy has no such type
            return tensor.view(torch.int16).numpy().view(np.uint16), "bfloat16"
        array = tensor.numpy()
    except Exception as error:  # sparse, quantised, meta and other tensors without plain elements
        raise AbacusError("INVALID_ARGUMENT", f"a torch tensor that has no array: {error}", field) from error
    return np.asarray(array, order="C"), array.dtype.name


def from_wire(dtype: str, shape: list[int], data: memoryview) -> np.ndarray:
    """A read-only array over `data`, which it keeps alive; a copy only where the bytes are not aligned.

    bfloat16 becomes float32, which holds all of its values: bits in an integer array would be taken for numbers.
    Raises ValueError when sizes do not fit.
    """
    numpy_dtype = NUMPY_DTYPES[dtype]
    expected = math.prod(shape) * numpy_dtype.itemsize
    if data.nbytes != expected:
        raise ValueError(f"{data.nbytes} bytes for {dtype}{shape}, which needs {expected}")
    array = np.frombuffer(data, dtype=numpy_dtype).reshape(shape) if expected else np.empty(shape, numpy_dtype)
    if dtype == "bfloat16":
        array = bfloat16_to_float32(array)
    elif not array.flags.aligned:
        array = array.copy()
    array.flags.writeable = False
    return array


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """The values of bfloat16 bits (uint16), exactly. Outputs of a query are converted already."""
    bits = np.asarray(bits)
    if bits.dtype != np.uint16:
        raise ValueError(f"bits of bfloat16 are uint16, not {bits.dtype}")
    return np.asarray(bits.astype(np.uint32) << 16).view(np.float32)  # without a dimension numpy makes a number of it


def float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Rounds to the nearest bfloat16 (ties to even) and returns its bits as uint16."""
    bits = np.asarray(values, dtype=np.float32, order="C").view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # Rounding may carry a NaN's mantissa over into infinity or the sign.
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)
