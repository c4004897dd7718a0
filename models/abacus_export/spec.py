"""NAME.toml in Python: tensors, buckets, and the text that models/model_spec.h parses."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

BATCH = "batch"
SEQUENCE = "sequence"
MAX_RANK = 8  # base/types.h
MAX_BUCKETS = 64  # shm/layout.h
MAX_TENSORS = 16  # client/protocol.h
MAX_MODEL_NAME_BYTES = 63  # model_spec.cc
MAX_TENSOR_NAME_BYTES = 128

# dtype -> (smallest, largest) value of integers, None for floating point
DTYPES: dict[str, tuple[int, int] | None] = {
    "float32": None,
    "float16": None,
    "bfloat16": None,
    "float64": None,
    "int64": (-(2**63), 2**63 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "bool": (0, 1),
}


class ExportError(Exception):
    """What went wrong and what to do about it, in one line."""


class UsageError(ExportError):
    """The command line is wrong."""


def last_line(error: BaseException) -> str:
    """An exception in one line; the last one, because TorchScript puts its traceback in front."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


@dataclass(frozen=True)
class TensorSpec:
    name: str
    dtype: str
    shape: tuple[str | int, ...]  # numbers, BATCH (first only), SEQUENCE (at most once)
    range: tuple[int, int] | None = None
    pad: int = 0

    @property
    def is_integer(self) -> bool:
        return DTYPES[self.dtype] is not None

    def shape_at(self, batch: int, sequence: int) -> list[int]:
        symbols = {BATCH: batch, SEQUENCE: sequence}
        return [symbols[d] if isinstance(d, str) else d for d in self.shape]


@dataclass(frozen=True)
class ModelSpec:
    name: str
    tolerance: float
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: tuple[int, ...]
    sequence: tuple[int, ...]  # empty without a sequence dimension


def check_name(name: str, what: str, max_bytes: int = MAX_TENSOR_NAME_BYTES) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) or len(name) > max_bytes:
        raise UsageError(
            f"{what} {name!r}: use at most {max_bytes} letters, digits, '.', '_' and '-', and not '.' or '-' in front"
        )
    return name


def parse_input(text: str) -> TensorSpec:
    """Parses NAME:DTYPE:DIM,DIM,...[:LOW..HIGH][:pad=N], for example 'ids:int64:batch,sequence:0..30521'."""
    parts = text.split(":")
    if len(parts) < 3:
        raise UsageError(f"--input {text!r}: expected NAME:DTYPE:SHAPE[:LOW..HIGH][:pad=N]")
    name, dtype, dims, *rest = parts
    check_name(name, "input name")
    if dtype not in DTYPES:
        raise UsageError(f"--input {text!r}: unknown dtype {dtype!r}; one of {', '.join(DTYPES)}")
    value_range, pad = None, None
    for part in rest:
        if found := re.fullmatch(r"(-?\d+)\.\.(-?\d+)", part):
            value_range = int(found[1]), int(found[2])
        elif found := re.fullmatch(r"pad=(-?\d+)", part):
            pad = int(found[1])
        else:
            raise UsageError(f"--input {text!r}: {part!r} is neither LOW..HIGH nor pad=N")
    limits = DTYPES[dtype]
    if limits is None and (value_range or pad):
        raise UsageError(f"--input {text!r}: a range or pad value is for integer inputs")
    if value_range and limits and not limits[0] <= value_range[0] <= value_range[1] <= limits[1]:
        raise UsageError(f"--input {text!r}: range must be ascending and within {dtype}")
    if pad is None:
        pad = 0 if value_range is None else min(max(0, value_range[0]), value_range[1])
    if value_range and not value_range[0] <= pad <= value_range[1]:
        raise UsageError(f"--input {text!r}: pad value {pad} lies outside the range")
    return TensorSpec(name, dtype, parse_shape(dims, text), value_range, pad)


def parse_shape(dims: str, source: str) -> tuple[str | int, ...]:
    shape: list[str | int] = []
    for i, dim in enumerate(dims.split(",")):
        if dim == BATCH and i > 0:
            raise UsageError(f"--input {source!r}: 'batch' must be the first dimension")
        if dim in (BATCH, SEQUENCE):
            shape.append(dim)
        elif dim.isdecimal() and int(dim) > 0:
            shape.append(int(dim))
        else:
            raise UsageError(
                f"--input {source!r}: dimension {dim!r} is neither a positive number, 'batch' nor 'sequence'"
            )
    if shape.count(SEQUENCE) > 1:
        raise UsageError(f"--input {source!r}: 'sequence' may occur once")
    if len(shape) > MAX_RANK:
        raise UsageError(f"--input {source!r}: at most {MAX_RANK} dimensions")
    return tuple(shape)


def to_toml(spec: ModelSpec, made_by: str) -> str:
    """The text of NAME.toml. `made_by` goes into a comment: the C++ parser refuses unknown keys."""
    quote = json.dumps  # JSON strings are TOML basic strings
    lines = [
        f"# made by: {made_by}",
        f"name = {quote(spec.name)}",
        f"file = {quote(spec.name + '.pt')}",
        f"tolerance = {spec.tolerance!r}",
        "",
        "[buckets]",
        f"batch = {list(spec.batch)}",
    ]
    if spec.sequence:
        lines.append(f"sequence = {list(spec.sequence)}")
    for kind, tensors in (("inputs", spec.inputs), ("outputs", spec.outputs)):
        for tensor in tensors:
            lines += [
                "",
                f"[[{kind}]]",
                f"name = {quote(tensor.name)}",
                f"dtype = {quote(tensor.dtype)}",
                f"shape = [{', '.join(quote(d) if isinstance(d, str) else str(d) for d in tensor.shape)}]",
            ]
            if tensor.range is not None:
                lines.append(f"range = [{tensor.range[0]}, {tensor.range[1]}]")
            if kind == "inputs" and SEQUENCE in tensor.shape:
                lines.append(f"pad = {tensor.pad}")
    return "\n".join(lines) + "\n"


def made_by_of(toml_text: str) -> str | None:
    """The `made_by` that to_toml() wrote, or None."""
    first = toml_text.split("\n", 1)[0]
    return first.removeprefix("# made by: ") if first.startswith("# made by: ") else None
