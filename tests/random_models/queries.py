"""Inputs of queries at several scales, and the padding that a server adds to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from model import BATCH, SEQUENCE, Input, RandomModel
from torch import Tensor

NORMAL = "N(0, 1)"
MIXED = "mixed rows"  # rows of different scales in one batch
ONE_NAN = "one NaN"
_SCALES = {
    NORMAL: lambda x, generator: x.normal_(generator=generator),
    "0..1": lambda x, generator: x.uniform_(0, 1, generator=generator),
    "pixels 0..255": lambda x, generator: x.uniform_(0, 255, generator=generator),
    "1000 N(0, 1)": lambda x, generator: x.normal_(generator=generator).mul_(1000),
}


@dataclass(frozen=True)
class Shape:
    rows: int
    length: int  # 0: no sequence dimension


def scales_of(model: RandomModel) -> list[str]:
    free = [tensor for tensor in model.inputs if tensor.is_float and tensor.low is None]
    return [*_SCALES, MIXED, ONE_NAN] if free else [NORMAL]


def shapes_of(model: RandomModel, batchable: bool, padding: str | None) -> list[Shape]:
    """What a service takes: the buckets, and what lies between them where it may be padded."""
    rows = range(1, model.batches[-1] + 1) if batchable else model.batches
    lengths: list[int] = [0]
    if model.sequences:
        lengths = list(model.sequences)
        if padding != "exact":
            lengths += sorted({1, model.sequences[0] - 1, model.sequences[-1] - 1} - set(lengths))
    return [Shape(n, length) for n in rows for length in lengths]


def draw(model: RandomModel, shape: Shape, scale: str, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [_draw(tensor, shape, scale, generator) for tensor in model.inputs]


def _draw(tensor: Input, shape: Shape, scale: str, generator: torch.Generator) -> Tensor:
    sizes = [{BATCH: shape.rows, SEQUENCE: shape.length}.get(dim, dim) for dim in tensor.shape]
    dtype = getattr(torch, tensor.dtype)
    if tensor.role != "plain":
        return _mask(tensor, sizes, generator).to(dtype)
    if tensor.is_float:
        x = torch.empty(sizes, dtype=torch.float32)
        if tensor.low is not None:
            return x.uniform_(float(tensor.low), float(tensor.high), generator=generator).to(dtype)
        if scale == MIXED:
            for row, name in zip(x, list(_SCALES) * len(x), strict=False):
                _SCALES[name](row, generator)
        else:
            _SCALES.get(scale, _SCALES[NORMAL])(x, generator)
        if scale == ONE_NAN:
            x.view(-1)[int(torch.randint(0, x.numel(), (), generator=generator))] = float("nan")
        return x.to(dtype)
    high = shape.length if tensor.high == SEQUENCE else int(tensor.high)
    return torch.randint(int(tensor.low), high + 1, sizes, generator=generator).to(dtype)


def _mask(tensor: Input, sizes: list[int], generator: torch.Generator) -> Tensor:
    """Something counts in each row."""
    counts = torch.rand(sizes, generator=generator) < 0.6
    counts[:, 0] |= ~counts.any(1)
    return counts if tensor.role == "keep" else ~counts


def padded(model: RandomModel, inputs: list[Tensor], shape: Shape, pads: dict[str, int] | None = None) -> list[Tensor]:
    """As a server does it, to a bucket. `pads`: of the description, where they are not the model's own."""
    result = []
    for tensor, x in zip(model.inputs, inputs, strict=True):
        sizes = [{BATCH: shape.rows, SEQUENCE: shape.length}.get(dim, dim) for dim in tensor.shape]
        low = 0 if tensor.low is None else tensor.low
        pad = tensor.pad if pads is None else pads[tensor.name]
        fill = low if tensor.is_float else max(pad, int(low))
        wide = torch.full(sizes, fill, dtype=x.dtype)
        wide[tuple(slice(0, size) for size in x.shape)] = x
        result.append(wide)
    return result


def joined(model: RandomModel, inputs: list[Tensor], shape: Shape, scale: str, seed: int) -> list[Tensor]:
    """With rows of other queries behind them."""
    others = draw(model, shape, scale, seed)
    rows = inputs[0].shape[0]
    return [torch.cat([x, other[rows:]]) if rows < shape.rows else x for x, other in zip(inputs, others, strict=True)]


def bucket_of(model: RandomModel, shape: Shape) -> Shape:
    return Shape(
        min(size for size in model.batches if size >= shape.rows),
        min((size for size in model.sequences if size >= shape.length), default=0),
    )
