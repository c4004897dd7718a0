"""Inputs to run a module on: random within the declared ranges, at several scales, and padded along the sequence."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .spec import SEQUENCE, TensorSpec


NORMAL = "N(0, 1)"
# What float inputs hold: clamps, branches and memories may show at one scale only.
_SCALES: dict[str, Callable[[list[int], torch.Generator], torch.Tensor]] = {
    NORMAL: lambda shape, generator: torch.randn(shape, generator=generator),
    "0..1": lambda shape, generator: torch.rand(shape, generator=generator),
    "pixels 0..255": lambda shape, generator: torch.rand(shape, generator=generator) * 255,
    "1000 N(0, 1)": lambda shape, generator: torch.randn(shape, generator=generator) * 1000,
}


def scales(specs: tuple[TensorSpec, ...]) -> tuple[str, ...]:
    """The scales that make a difference to these inputs, NORMAL first."""
    return (NORMAL,) if all(spec.is_integer for spec in specs) else tuple(_SCALES)


def random_inputs(
    specs: tuple[TensorSpec, ...], batch: int, sequence: int, device: torch.device, seed: int, scale: str = NORMAL
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [_random_tensor(spec, batch, sequence, generator, scale).to(device) for spec in specs]


def _random_tensor(
    spec: TensorSpec, batch: int, sequence: int, generator: torch.Generator, scale: str
) -> torch.Tensor:
    shape = spec.shape_at(batch, sequence)
    dtype = getattr(torch, spec.dtype)
    if not spec.is_integer:
        return _SCALES[scale](shape, generator).to(dtype)
    low, high = range_of(spec)
    high = min(high, low + 2**31)
    values = torch.randint(low, high + 1, shape, generator=generator)
    if high == low + 1 and SEQUENCE in spec.shape and sequence > 1:
        # Perhaps a mask, of either meaning: a row masked as a whole has no defined answer, so none is all alike.
        axis = spec.shape.index(SEQUENCE)
        values.select(axis, sequence - 1).copy_(low + high - values.select(axis, 0))
    return values.to(dtype)


def range_of(spec: TensorSpec) -> tuple[int, int]:
    """The declared range of an integer input; without one small values, because an index must not leave its table."""
    return spec.range or ((0, 100) if spec.dtype in ("uint8", "int8") else (0, 1))


def pad_sequence(specs: tuple[TensorSpec, ...], inputs: list[torch.Tensor], length: int) -> list[torch.Tensor]:
    """What Abacus does to a query that is shorter than its bucket."""
    padded = []
    for spec, tensor in zip(specs, inputs, strict=True):
        if SEQUENCE in spec.shape:
            axis = spec.shape.index(SEQUENCE)
            shape = list(tensor.shape)
            shape[axis] = length - shape[axis]
            tensor = torch.cat([tensor, tensor.new_full(shape, spec.pad)], dim=axis)
        padded.append(tensor)
    return padded
