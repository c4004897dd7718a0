"""NAME.toml in Python: tensors, buckets, and the text that models/model_spec.h parses."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

BATCH = "batch"
SEQUENCE = "sequence"
# What padding along the sequence does to the outputs: nothing (verified), what the user accepts (not verified), or it
# is not done, so that only the lengths of the buckets are served.
HARMLESS, ALLOWED, EXACT = "harmless", "allowed", "exact"
MAX_RANK = 8  # base/types.h
MAX_BUCKETS = 64  # shm/layout.h
MAX_TENSORS = 16  # client/protocol.h
MAX_MODEL_NAME_BYTES = 63  # model_spec.cc, like the next four
MAX_DIMENSION = 2**31
MAX_BATCH = 65536
MAX_SEQUENCE = 2**20
MAX_BLOCK_BYTES = 2**40
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
_LARGEST_FLOAT = {"float16": 65504.0, "bfloat16": 3.3895e38, "float32": 3.4028234e38, "float64": 1.7976931348623157e308}


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
    # Of an integer input two integers, or an integer and SEQUENCE (the length of the query); of a float input two
    # numbers.
    range: tuple[float, float | str] | None = None
    pad: int | None = None  # None: not given, see `padding`; integers only

    @property
    def is_integer(self) -> bool:
        return DTYPES[self.dtype] is not None

    @property
    def is_two_valued(self) -> bool:
        """Whether it may be a mask."""
        low, high = self.range or ((0, 1) if self.dtype == "bool" else (0, 0))
        return self.is_integer and high != SEQUENCE and high == low + 1

    @property
    def padding(self) -> float:
        """What padding positions hold: the pad value, else zero moved into the range."""
        if self.pad is not None or self.range is None:
            return self.pad or 0
        low, high = self.range
        return max(low, 0) if high == SEQUENCE else min(max(low, 0), high)

    def shape_at(self, batch: int, sequence: int) -> list[int]:
        symbols = {BATCH: batch, SEQUENCE: sequence}
        return [symbols[d] if isinstance(d, str) else d for d in self.shape]


@dataclass(frozen=True)
class Library:
    """An operator library beside the description."""

    file: str
    sha256: str


@dataclass(frozen=True)
class ModelSpec:
    name: str
    tolerance: float
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: tuple[int, ...]
    sequence: tuple[int, ...]  # empty without a sequence dimension
    file: str = ""  # of the TorchScript, beside the description
    batchable: bool = True  # rows of a batch are independent: padded, and shared by queries
    sequence_padding: str = HARMLESS
    libraries: tuple[Library, ...] = ()


def check_name(name: str, what: str, max_bytes: int = MAX_TENSOR_NAME_BYTES) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) or len(name) > max_bytes:
        raise UsageError(
            f"{what} {name!r}: use at most {max_bytes} letters, digits, '.', '_' and '-', and not '.' or '-' in front"
        )
    return name


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


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
        if found := re.fullmatch(rf"({_NUMBER})\.\.({_NUMBER}|SEQUENCE|sequence)", part):
            value_range = _parse_range(found[1], found[2], dtype, text)
        elif found := re.fullmatch(r"pad=(-?\d+)", part):
            pad = int(found[1])
        else:
            raise UsageError(f"--input {text!r}: {part!r} is neither LOW..HIGH nor pad=N")
    tensor = TensorSpec(name, dtype, parse_shape(dims, text), value_range, pad)
    if pad is not None:
        _check_pad(tensor, pad, text)
    return tensor


def _parse_range(low_text: str, high_text: str, dtype: str, source: str) -> tuple[float, float | str]:
    limits = DTYPES[dtype]
    if high_text.lower() == SEQUENCE:
        if limits is None or dtype == "bool":
            raise UsageError(f"--input {source!r}: LOW..SEQUENCE is for integer inputs")
        if not re.fullmatch(r"-?\d+", low_text) or not limits[0] <= (low := int(low_text)) <= 1:
            raise UsageError(f"--input {source!r}: the low end of LOW..SEQUENCE is an integer, at most 1")
        return low, SEQUENCE
    if limits is None:
        low, high, largest = float(low_text), float(high_text), _LARGEST_FLOAT[dtype]
        if not -largest <= low <= high <= largest:
            raise UsageError(f"--input {source!r}: range must be ascending and within {dtype}")
        return low, high
    if not all(re.fullmatch(r"-?\d+", end) for end in (low_text, high_text)):
        raise UsageError(f"--input {source!r}: the range of an integer input takes integers")
    low, high = int(low_text), int(high_text)
    if not limits[0] <= low <= high <= limits[1]:
        raise UsageError(f"--input {source!r}: range must be ascending and within {dtype}")
    return low, high


def _check_pad(tensor: TensorSpec, pad: int, source: str) -> None:
    limits = DTYPES[tensor.dtype]
    if limits is None:
        raise UsageError(f"--input {source!r}: a pad value is for integer inputs; floats are padded with zero")
    if SEQUENCE not in tensor.shape:
        raise UsageError(f"--input {source!r}: a pad value is for inputs with a 'sequence' dimension")
    low, high = tensor.range or limits
    if pad < low or pad > (1 if high == SEQUENCE else high):
        raise UsageError(f"--input {source!r}: pad value {pad} lies outside the range")


def parse_shape(dims: str, source: str) -> tuple[str | int, ...]:
    shape: list[str | int] = []
    for i, dim in enumerate(dims.split(",")):
        if dim == BATCH and i > 0:
            raise UsageError(f"--input {source!r}: 'batch' must be the first dimension")
        if dim in (BATCH, SEQUENCE):
            shape.append(dim)
        elif dim.isdecimal() and 0 < int(dim) <= MAX_DIMENSION:
            shape.append(int(dim))
        else:
            raise UsageError(
                f"--input {source!r}: dimension {dim!r} is neither a number from 1 to {MAX_DIMENSION}, 'batch' nor "
                "'sequence'"
            )
    if shape.count(SEQUENCE) > 1:
        raise UsageError(f"--input {source!r}: 'sequence' may occur once")
    if len(shape) > MAX_RANK:
        raise UsageError(f"--input {source!r}: at most {MAX_RANK} dimensions")
    return tuple(shape)


def to_toml(spec: ModelSpec, made_by: str) -> str:
    """The text of NAME.toml. `made_by` goes into a comment: the C++ parser refuses unknown keys."""
    quote = json.dumps  # JSON strings are TOML basic strings
    lines = [f"# made by: {made_by}", f"name = {quote(spec.name)}", f"file = {quote(spec.file)}"]
    lines.append(f"tolerance = {spec.tolerance!r}")
    if not spec.batchable:
        lines.append("batchable = false")
    lines += ["", "[buckets]", f"batch = {list(spec.batch)}"]
    if spec.sequence:
        lines.append(f"sequence = {list(spec.sequence)}")
        if spec.sequence_padding != HARMLESS:
            lines.append(f"sequence_padding = {quote(spec.sequence_padding)}")
    for library in spec.libraries:
        lines += ["", "[[libraries]]", f"file = {quote(library.file)}", f"sha256 = {quote(library.sha256)}"]
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
                lines.append(f"range = [{', '.join(quote(end) for end in tensor.range)}]")
            if kind == "inputs" and SEQUENCE in tensor.shape and tensor.is_integer:
                lines.append(f"pad = {tensor.padding}")
    return "\n".join(lines) + "\n"


def made_by_of(toml_text: str) -> str | None:
    """The `made_by` that to_toml() wrote, or None."""
    first = toml_text.split("\n", 1)[0]
    return first.removeprefix("# made by: ") if first.startswith("# made by: ") else None
