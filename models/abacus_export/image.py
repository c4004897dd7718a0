"""Pictures as they come out of a decoder: uint8, height x width x channels. A quarter of the bytes of float32.

The usual preparation, torchvision's ToTensor() and Normalize(mean, std), moves into the model; resizing and cropping
stay with the client, who knows what the picture shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from .recipe import Built
from .spec import BATCH, TensorSpec, UsageError

CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Normalization:
    """Of values from 0 to 1, as torchvision's Normalize(): (x - mean) / std; a number for each channel, or for all."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Prepare(nn.Module):
    """[batch, height, width, channels] of uint8 to what the model was trained on: [batch, channels, height, width]."""

    def __init__(self, normalization: Normalization, dtype: torch.dtype) -> None:
        super().__init__()
        both = (normalization.mean, normalization.std)
        mean, std = (torch.tensor(numbers, dtype=torch.float64).view(-1, 1, 1) for numbers in both)
        self.register_buffer("scale", (1 / (255 * std)).to(dtype))
        self.register_buffer("shift", (-mean / std).to(dtype))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        # The permuted tensor is channels-last already, and stays so.
        return torch.addcmul(self.shift, pixels.permute(0, 3, 1, 2).to(self.scale.dtype), self.scale)


class OfPixels(nn.Module):
    """A model with the preparation of its images in front."""

    def __init__(self, model: nn.Module, prepare: list[nn.Module]) -> None:
        super().__init__()
        self.prepare = nn.ModuleList(prepare)
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> object:
        return self.model(*(prepare(x) for prepare, x in zip(self.prepare, inputs, strict=True)))


def is_image(tensor: TensorSpec) -> bool:
    """Floats of the shape batch, channels, height, width."""
    shape = tensor.shape
    numbers = len(shape) == 4 and shape[0] == BATCH and all(isinstance(size, int) for size in shape[1:])
    return numbers and shape[1] in CHANNELS and not tensor.is_integer


def of_pixels(built: Built, normalization: Normalization, device: torch.device) -> Built:
    """The same model, with every image input as uint8 pixels."""
    prepare: list[nn.Module] = []
    inputs: list[TensorSpec] = []
    for tensor in built.inputs:
        if not is_image(tensor):
            prepare.append(nn.Identity())
            inputs.append(tensor)
            continue
        batch, channels, height, width = tensor.shape
        if tensor.range is not None:
            raise UsageError(f"input {tensor.name!r}: --image uint8 sets the range, to 0..255; leave it out")
        for option, values in (("--mean", normalization.mean), ("--std", normalization.std)):
            if len(values) not in (1, channels):
                raise UsageError(
                    f"{option}: {len(values)} numbers for the {channels} channels of input {tensor.name!r}"
                )
        prepare.append(Prepare(normalization, getattr(torch, tensor.dtype)).to(device))
        inputs.append(TensorSpec(tensor.name, "uint8", (batch, height, width, channels), (0, 255)))
    if tuple(inputs) == built.inputs:
        raise UsageError(
            "--image uint8: no input is an image: floats of the shape batch,CHANNELS,HEIGHT,WIDTH with "
            f"{', '.join(map(str, CHANNELS[:-1]))} or {CHANNELS[-1]} channels"
        )
    return replace(built, module=OfPixels(built.module, prepare).eval(), inputs=tuple(inputs))
