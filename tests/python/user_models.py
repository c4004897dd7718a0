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
        return x * 1


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


class BranchAfterIndex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("chosen", torch.tensor([2, 0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x[:, self.chosen] * 2
        if y.shape[1] > 100:
            return y + 1
        return y


class BranchAfterMask(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count = x[x > 0].shape[0]
        if count > 100:
            return x + 1
        return x * 2


class ConvolutionLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.back = nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 3, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.convolution(x)
        return y, self.back(y)


class HiddenBranch(nn.Module):
    """Reads memory behind PyTorch's back, as a C library does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = ctypes.c_float.from_address(x.data_ptr()).value
        return x / 255 if first > 10 else x


RECENT = {"largest": [torch.full((1,), 5.0)]}


class KeepsLargest(nn.Module):
    """Divides by the largest number that it ever saw, which it holds in one of several ways."""

    def __init__(self, held: str) -> None:
        super().__init__()
        self.linear, self.held, self.plain = nn.Linear(4, 2), held, torch.full((1,), 5.0)
        self.listed = [{"largest": torch.full((1,), 5.0)}]
        self.register_buffer("buffer", torch.full((1,), 5.0))
        self.number = 5.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.held == "number":
            self.number = max(self.number, x.abs().max().item())
            return self.linear(x / self.number)
        if self.held == "rebound":
            self.plain = torch.maximum(self.plain, x.abs().max().reshape(1))
            return self.linear(x / self.plain)
        largest = {
            "plain": self.plain,
            "listed": self.listed[0]["largest"],
            "buffer": self.buffer,
            "global": RECENT["largest"][0],
        }[self.held]
        largest.copy_(torch.maximum(largest, x.abs().max().reshape(1)))
        return self.linear(x / largest)


def keeps_largest_plain() -> nn.Module:
    return KeepsLargest("plain")


def keeps_largest_listed() -> nn.Module:
    return KeepsLargest("listed")


def keeps_largest_buffer() -> nn.Module:
    return KeepsLargest("buffer")


def keeps_largest_global() -> nn.Module:
    return KeepsLargest("global")


def keeps_largest_number() -> nn.Module:
    return KeepsLargest("number")


def keeps_largest_rebound() -> nn.Module:
    return KeepsLargest("rebound")


class CountsCalls(nn.Module):
    """Writes what does not reach an output while it is small."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 1e9):
            self.calls.add_(1)
        return x + torch.relu(self.calls - 100)


class KeepsLastActivation(nn.Module):
    """For debugging: nothing reads it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = x * 2
        return self.last + 1


class RunningStatistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.norm.train()
        return self.norm(torch.cat([x, -x]))[: x.shape[0]]


class AlwaysDrops(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class DrawsForTraining(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = torch.rand([])
        return x + skip if self.training else x * 2


class TrainingOnly(nn.Module):
    """A batch norm counts its batches and a dropout draws, but only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class WritesToInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.sub_(0.5).div_(0.25))


class Named(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": x.sum(1), "doubled": x * 2}


class Numbered(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
        return {0: x.sum(1), 1: x * 2}


class Complex(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"spectrum": torch.complex(x, x)}


class Nested(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        return x * 2, (x, x + 1)


class Missing(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return x * 2, None


class Sparse(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to_sparse()


class HalfInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2).half()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.half()).float()


class OneAtATime(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[0, 1].sum().reshape(1)


class MaskedMean(nn.Module):
    """Its mask has PyTorch's meaning (1: padding) or the tokenizers' (1: token)."""

    def __init__(self, of_padding: bool) -> None:
        super().__init__()
        self.embedding, self.of_padding = nn.Embedding(10, 4), of_padding

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        kept = mask == (0 if self.of_padding else 1)
        scores = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~kept, float("-inf"))
        return (self.embedding(ids) * scores.softmax(1).unsqueeze(-1)).sum(1)


def mask_of_padding() -> nn.Module:
    return MaskedMean(of_padding=True)


def mask_of_tokens() -> nn.Module:
    return MaskedMean(of_padding=False)


class PackedSequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru = nn.Embedding(10, 4), nn.GRU(4, 3, batch_first=True)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.embedding(ids), lengths, True, enforce_sorted=False)
        return self.gru(packed)[1][0]


class ReadsLengths(PackedSequence):
    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return super().forward(ids, lengths.cpu())


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


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


def configured(width: int, scale: float = 1.0, bias: bool = True, kind: str = "linear") -> nn.Module:
    assert isinstance(bias, bool) and kind == "linear" and scale == 0.5
    return nn.Linear(4, width, bias=bias)


def broken() -> nn.Module:
    raise ValueError("no such weights")


def not_a_module() -> int:
    return 3


class Pictures(nn.Module):
    """A small image classifier with an input beside the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3, stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, photo: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.features(photo)).mean((2, 3))) * gain
