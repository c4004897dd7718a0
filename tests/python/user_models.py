"""Models of a user, exported by the tests with --module user_models:NAME."""

from __future__ import annotations

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
