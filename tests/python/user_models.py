"""Models of a user, exported by the tests with --module user_models:NAME."""

from __future__ import annotations

import ctypes

import torch
from torch import nn


class TwoHeads(nn.Module):
    """Returns a dict and an output that follows the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)

    def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens = self.embedding(ids) * scale.unsqueeze(-1)
        return {"tokens": tokens, "longest": ids.max(1).values}


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x[0, 0] > 0):
            return x + 1
        return x - 1


class BakedSize(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * int(x.shape[0].item() if isinstance(x.shape[0], torch.Tensor) else x.shape[0])


class SizeBranch(nn.Module):
    """Asks for sizes and weights only, which are the same for every query of a bucket."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 1000 or x.numel() == 0 or self.linear.weight.sum() > 1e6:
            raise ValueError("too large")
        return self.linear(x) * torch.tensor(2.0)


class HarmfulSizeBranch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 3:
            return x * 2
        return x


class ValueInPython(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(x.numpy().max())


class SilentBranch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if torch.equal(x, x.clamp(max=10)) else x / 255


class SizeFromValues(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x[x > 10]) > 0:
            return x / 255
        return x


class HiddenBranch(nn.Module):
    """Reads memory behind PyTorch's back, as a C library does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = ctypes.c_float.from_address(x.data_ptr()).value
        return x / 255 if first > 10 else x


class Overflow(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / torch.zeros_like(x)


class Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


class BatchInside(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(0, 1)


class Text(nn.Module):
    def forward(self, x: torch.Tensor) -> str:
        return "no tensor"


def broken() -> nn.Module:
    raise ValueError("no such weights")


def not_a_module() -> int:
    return 3
