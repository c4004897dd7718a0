"""What a builder gets and what it returns; shared by the modules that build models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .spec import TensorSpec

if TYPE_CHECKING:
    from .image import Normalization

Progress = Callable[[str], None]

# Of the buckets; the largest bounds the batches that a server forms of waiting queries.
BATCH_SIZES = {"cuda": (1, 2, 4, 8, 16, 32, 64), "cpu": (1, 2, 4)}


@dataclass(frozen=True)
class Options:
    device: torch.device
    weights: str  # "random" or "pretrained"
    seed: int

    @property
    def dtype(self) -> torch.dtype:
        return torch.float16 if self.device.type == "cuda" else torch.float32

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


@dataclass
class Built:
    """A module ready to run on Options.device, with its inputs in the order of forward()."""

    module: torch.nn.Module  # a ScriptModule is taken as it is, anything else is traced
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...] | None = None  # names; None: from the module's own, else output0, output1, ...
    write_companions: Callable[[Path], None] | None = None  # Recipe.companions into a directory


@dataclass(frozen=True)
class Order:
    """What to export and where to."""

    name: str
    batch: tuple[int, ...]
    sequence: tuple[int, ...]  # empty without a sequence dimension
    device: torch.device
    seed: int
    out: Path
    made_by: str  # identifies code and arguments, see publish.is_current
    worker: Path | None  # the worker program that loads the files in the end; None: this is left out
    libraries: tuple[Path, ...] = ()  # with operators that the model needs; loaded into this process already
    allow_padding: bool = False  # along the sequence, though it changes the outputs


@dataclass(frozen=True)
class Recipe:
    name: str
    summary: str
    build: Callable[[Options], Built]
    auto_weights: str = "random"  # what --weights auto means for it
    batch: dict[str, tuple[int, ...]] = field(default_factory=lambda: dict(BATCH_SIZES))
    sequence: tuple[int, ...] = ()
    companions: tuple[str, ...] = ()  # files for clients beside a model with pretrained weights
    normalization: Normalization | None = None  # of an image model's pixels
