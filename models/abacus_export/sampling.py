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
    if is_mask(spec) and len(shape) == 2:
        # A mask as queries have it: ones, then zeros where the row is shorter than the sequence.
        lengths = torch.randint(1, sequence + 1, (shape[0], 1), generator=generator)
        return (torch.arange(sequence).expand(shape) < lengths).to(dtype)
    # Without a declared range small values are the safe guess: an index must not leave its table.
    low, high = spec.range or ((0, 100) if spec.dtype in ("uint8", "int8") else (0, 1))
    high = min(high, low + 2**31)
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype)


def is_mask(spec: TensorSpec) -> bool:
    return spec.name.endswith("mask") and spec.range == (0, 1) and SEQUENCE in spec.shape


def with_full_masks(specs: tuple[TensorSpec, ...], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.ones_like(x) if is_mask(spec) else x for spec, x in zip(specs, inputs, strict=True)]


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
