"""Inputs to run a module on: random within the declared ranges, at several scales, and padded."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .spec import BATCH, SEQUENCE, TensorSpec

NORMAL = "N(0, 1)"
DECLARED = "declared range"
# What float inputs without a range hold: clamps, branches and memories may show at one scale only.
_SCALES: dict[str, Callable[[list[int], torch.Generator], torch.Tensor]] = {
    NORMAL: lambda shape, generator: torch.randn(shape, generator=generator),
    "0..1": lambda shape, generator: torch.rand(shape, generator=generator),
    "pixels 0..255": lambda shape, generator: torch.randint(0, 256, shape, generator=generator),
    "1000 N(0, 1)": lambda shape, generator: torch.randn(shape, generator=generator) * 1000,
}


def scales(specs: tuple[TensorSpec, ...]) -> tuple[str, ...]:
    """The scales that make a difference to these inputs; at the first one every model must work."""
    return (DECLARED,) if all(spec.is_integer or spec.range for spec in specs) else tuple(_SCALES)


def random_inputs(
    specs: tuple[TensorSpec, ...], batch: int, sequence: int, device: torch.device, seed: int, scale: str
) -> list[torch.Tensor]:
    """Inputs with declared ranges are drawn from these at every scale."""
    generator = torch.Generator().manual_seed(seed)
    return [_random_tensor(spec, batch, sequence, generator, scale).to(device) for spec in specs]


def _random_tensor(spec: TensorSpec, batch: int, sequence: int, generator: torch.Generator, scale: str) -> torch.Tensor:
    shape = spec.shape_at(batch, sequence)
    dtype = getattr(torch, spec.dtype)
    if not spec.is_integer:
        if spec.range is None:
            return _SCALES[scale](shape, generator).to(dtype)
        low, high = spec.range
        part = torch.rand(shape, generator=generator, dtype=torch.float64)
        # Weighted, because the difference may overflow; clamped, because both steps round.
        return (part * high + (1 - part) * low).clamp(low, high).to(dtype).clamp(low, high)
    low, high = range_of(spec, sequence)
    high = min(high, low + 2**31)
    values = torch.randint(low, high + 1, shape, generator=generator)
    if high == low + 1 and spec.range != (low, SEQUENCE) and SEQUENCE in spec.shape:
        # Perhaps a mask, of either meaning: a row masked as a whole has no defined answer, so none is all alike, and
        # the only position of a row is no padding.
        axis = spec.shape.index(SEQUENCE)
        last = values.select(axis, sequence - 1)
        if sequence == 1:
            last.fill_(low + high - spec.padding)
        else:
            last.copy_(low + high - values.select(axis, 0))
    return values.to(dtype)


def unmasked(specs: tuple[TensorSpec, ...], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same query with nothing masked, by what `specs` say that the padding of a mask is."""
    return [
        torch.full_like(tensor, sum(range_of(spec, 0)) - spec.padding)
        if spec.is_two_valued and SEQUENCE in spec.shape
        else tensor
        for spec, tensor in zip(specs, inputs, strict=True)
    ]


def range_of(spec: TensorSpec, sequence: int) -> tuple[int, int]:
    """The range of an integer input; without one small values, because an index must not leave its table."""
    low, high = spec.range or ((0, 100) if spec.dtype in ("uint8", "int8") else (0, 1))
    return low, max(low, sequence) if high == SEQUENCE else high


def pad_sequence(specs: tuple[TensorSpec, ...], inputs: list[torch.Tensor], length: int) -> list[torch.Tensor]:
    """What Abacus does to a query that is shorter than its bucket."""
    return _padded(specs, inputs, SEQUENCE, length)


def pad_batch(specs: tuple[TensorSpec, ...], inputs: list[torch.Tensor], rows: int) -> list[torch.Tensor]:
    """What Abacus does to a job that has fewer rows than its bucket."""
    return _padded(specs, inputs, BATCH, rows)


def _padded(specs: tuple[TensorSpec, ...], inputs: list[torch.Tensor], symbol: str, size: int) -> list[torch.Tensor]:
    padded = []
    for spec, tensor in zip(specs, inputs, strict=True):
        if symbol in spec.shape:
            axis = spec.shape.index(symbol)
            shape = list(tensor.shape)
            shape[axis] = size - shape[axis]
            tensor = torch.cat([tensor, tensor.new_full(shape, spec.padding)], dim=axis)
        padded.append(tensor)
    return padded


def with_other_rows(
    specs: tuple[TensorSpec, ...], inputs: list[torch.Tensor], others: list[torch.Tensor], row: int
) -> list[torch.Tensor]:
    """`row` of `inputs` among the rows of `others`."""
    mixed = []
    for spec, tensor, other in zip(specs, inputs, others, strict=True):
        if BATCH in spec.shape:
            tensor = torch.cat([other[:row], tensor[row : row + 1], other[row + 1 :]])
        mixed.append(tensor)
    return mixed
