"""Small models for the tests of the C++ parts: everything that a TorchScript graph may hold and that ResNet has not."""

from __future__ import annotations

import torch
from torch import nn

from .recipe import Built, Options
from .spec import BATCH, SEQUENCE, TensorSpec


class ControlFlow(nn.Module):
    """A branch and a loop that depend on the values of all rows, so that no other rows may join a query."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 8)
        self.step = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.first(x)
        if bool(x.sum() > 0):
            hidden = torch.relu(hidden)
        else:
            hidden = 2.0 * torch.tanh(hidden)
        for i in range(int(steps.max())):
            keep_going = (steps > i).to(hidden.dtype).unsqueeze(1)
            hidden = hidden + keep_going * torch.tanh(self.step(hidden))
        return hidden, steps * 10


class Multi(nn.Module):
    """Two inputs, two outputs, a sequence dimension; token 0 is padding and counts for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8, padding_idx=0)
        self.scale = nn.Linear(6, 8)
        self.pool = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.embedding(ids) * self.scale(x).unsqueeze(1)
        count = (ids != 0).sum(1, keepdim=True).clamp(min=1)
        return tokens, self.pool(tokens.sum(1) / count.to(tokens.dtype))


def build_control_flow(options: Options) -> Built:
    torch.manual_seed(options.seed)
    inputs = (
        TensorSpec("x", options.dtype_name, (BATCH, 16)),
        TensorSpec("steps", "int64", (BATCH,), (0, 5)),
    )
    module = torch.jit.script(ControlFlow().eval().to(options.device, options.dtype))
    return Built(module, inputs, ("hidden", "steps_times_ten"))


def build_multi(options: Options) -> Built:
    torch.manual_seed(options.seed)
    inputs = (
        TensorSpec("x", options.dtype_name, (BATCH, 6)),
        TensorSpec("ids", "int64", (BATCH, SEQUENCE), (0, 49)),
    )
    return Built(Multi().eval().to(options.device, options.dtype), inputs, ("tokens", "pooled"))
