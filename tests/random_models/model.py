"""What a random model is: source text, inputs, buckets, and what must come out of its export.

Models are text, so that one can be read, scripted by TorchScript and exported again by hand, and so that the same text
with other types is the float64 reference.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

BATCH = "batch"
SEQUENCE = "sequence"

HEADER = '''"""Random model, seed {seed}: {summary}."""

from typing import List

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def vary(module: nn.Module) -> None:
    """Statistics and scales as if trained."""
    for part in module.modules():
        if getattr(part, "running_var", None) is not None:
            part.running_mean.normal_(0, 0.5)
            part.running_var.uniform_(0.3, 3)
        if hasattr(part, "eps") and getattr(part, "weight", None) is not None:
            nn.init.uniform_(part.weight, 0.5, 1.5)
            if part.bias is not None:
                nn.init.normal_(part.bias)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed({seed})
'''


@dataclass(frozen=True)
class Input:
    """`low`, `high`: the declared range; high may be SEQUENCE, the query's own length. `role`: how it is filled."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    low: float | None = None
    high: float | str | None = None
    pad: int = 0
    role: str = "plain"  # or "keep", "drop": a mask of the sequence in which 1, 0 stands for what counts

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith("float")

    def text(self) -> str:
        """As for --input."""
        text = f"{self.name}:{self.dtype}:{','.join(map(str, self.shape))}"
        if self.low is not None:
            text += f":{self.low}..{self.high}"
        return text + (f":pad={self.pad}" if self.pad else "")


@dataclass(frozen=True)
class RandomModel:
    seed: int
    kind: str
    source: str
    inputs: tuple[Input, ...]
    batches: tuple[int, ...]
    sequences: tuple[int, ...] = ()
    script: bool = False
    batchable: bool = True  # rows do not depend on each other, as built
    padding: str | None = None  # "harmless" or "exact", as built; None: no sequence dimension
    refused: str | None = None  # must be refused, with a reason that this pattern finds
    tags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"random-{self.seed}"

    @property
    def summary(self) -> str:
        parts = [self.kind, "script" if self.script else "trace", *self.tags]
        return " ".join(parts + ([] if self.batchable else ["rows-depend"]) + ([self.padding] if self.padding else []))

    @property
    def reference_source(self) -> str:
        """The same in double precision throughout."""
        return re.sub(r"torch\.b?float(16|32)\b", "torch.float64", self.source)


@dataclass
class Value:
    """A tensor of forward(): its name and shape without the batch."""

    name: str
    shape: tuple[int, ...]
    writable: bool = True  # no element of it is two places of a tensor

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        product = 1
        for dim in self.shape:
            product *= dim
        return product


@dataclass
class Builder:
    """Collects the text of a model."""

    random: random.Random
    script: bool = False
    init: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    batchable: bool = True
    least_rows: int = 1
    _names: int = 0

    def between(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def pick(self, *options):
        return self.random.choice(options)

    def number(self, low: float, high: float) -> float:
        return round(self.random.uniform(low, high), 2)

    def _name(self, letter: str) -> str:
        self._names += 1
        return f"{letter}{self._names}"

    def module(self, text: str) -> str:
        name = self._name("m")
        self.init.append(f"self.{name} = {text}")
        return f"self.{name}"

    def constant(self, text: str) -> str:
        name = self._name("c")
        self.init.append(f"self.register_buffer({name!r}, {text})")
        return f"self.{name}"

    def temporary(self) -> str:
        return self._name("t")

    def line(self, text: str) -> None:
        self.body.append(text)

    def value(self, text: str, shape: tuple[int, ...], writable: bool = True) -> Value:
        made = Value(self._name("v"), tuple(shape), writable)
        self.line(f"{made.name} = {text}")
        self.values.append(made)
        return made

    def tag(self, text: str) -> None:
        if text not in self.tags:
            self.tags.append(text)

    def source(self, seed: int, summary: str, inputs: tuple[Input, ...], returned: str) -> str:
        arguments = ", ".join(f"{tensor.name}: Tensor" for tensor in inputs)
        lines = [*self.init, "vary(self)", "self.eval()"]
        text = HEADER.format(seed=seed, summary=summary) + "".join(f"        {line}\n" for line in lines)
        text += f"\n    def forward(self, {arguments}):\n"
        return text + "".join(f"        {line}\n" for line in [*self.body, f"return {returned}"])
