"""Models of a user whose rows or positions do or do not depend on each other, or that keep their first query."""

from __future__ import annotations

from typing import Optional

import torch
from torch import nn

# ---- rows of a batch


class Centred(nn.Module):
    """`strength` of the mean over all rows is taken from each."""

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.linear, self.strength = nn.Linear(4, 3), strength

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x - self.strength * x.mean(0, keepdim=True))


class HalvedWherePositive(nn.Module):
    """Scripted: the branch asks all rows at once, and batches of both signs all take the same one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x > 0).all()):
            x = x / 2
        return x + 1


class ScaledBySizeInsideOfBounds(nn.Module):
    """How many rows there are shows for large values alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x - 100.0) * x.shape[0] + x


class CentredInSingle(nn.Module):
    """A conversion that a double-precision copy has, too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(torch.float32)
        return x - 1e-6 * x.mean(0, keepdim=True)


class ScaledBySize(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.shape[0]


class TwiceInCompany(nn.Module):
    """Scripted: one row alone is answered differently, two and more are not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.size(0) > 1 else x + 1


class SizeBeforeNorm(nn.Module):
    """The normalisation removes the factor up to its epsilon."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x * x.size(0))


class NeedsEvenBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[0::2] + 0.0, x[1::2] + 0.0], 1).flatten(0, 1)


class LeaksNan(nn.Module):
    """Rows are independent as long as all of them are finite."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 + x.sum() * 0


class Sorted(nn.Module):
    """Reorders the rows and puts them back, as packing does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        order = x.sum(1).argsort()
        return self.linear(x[order])[order.argsort()]


class QuantisedTogether(nn.Module):
    """One scale for the whole batch, as dynamic quantisation has it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.nan_to_num().abs().max() / 127 + 1e-9
        return (x / scale).round() * scale


# ---- positions of a sequence


class Pooled(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embedding, self.kind = nn.Embedding(100, 8), kind

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states = self.embedding(ids)
        if self.kind == "first":
            return states[:, 0] * 2
        if self.kind == "mean":
            return states.mean(1)
        if self.kind == "faint":  # below the tolerance
            return states[:, 0] + 1e-5 * states.mean(1)
        kept = (ids != 0).unsqueeze(-1).to(states.dtype)  # 0 is padding
        return (states * kept).sum(1) / kept.sum(1).clamp(min=1)


def first_position() -> nn.Module:
    return Pooled("first")


def mean_pool() -> nn.Module:
    return Pooled("mean")


def faint_pool() -> nn.Module:
    return Pooled("faint")


def skips_zeros() -> nn.Module:
    return Pooled("kept")


class LastStep(nn.Module):
    """Reads the position that its lengths name; fails where that lies behind the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru = nn.Embedding(100, 8), nn.GRU(8, 6, batch_first=True)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        states = self.gru(self.embedding(ids))[0]
        return states.gather(1, (lengths - 1).view(-1, 1, 1).expand(-1, 1, 6)).squeeze(1)


class NeedsFour(nn.Module):
    """A kernel of four positions, which a shorter sequence does not hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.unfold(1, 4, 1)[:, 0] * 2


class AsksForAllKept(nn.Module):
    """Only where several positions are all kept padding makes a difference."""

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        kept = keep != 0
        return (x * kept).sum(1) + (kept.all(1) & (kept.sum(1) > 1))


class TwoMasks(nn.Module):
    """Counts what a mask of padding (True = padding) and a mask of tokens keep."""

    def forward(self, skip: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return (~skip).sum(1) + 100 * keep.sum(1)


# ---- ranges


class Logarithm(nn.Module):
    def forward(self, p: torch.Tensor) -> torch.Tensor:
        return torch.log(p)


# ---- what the first query leaves behind


class FirstQuery(nn.Module):
    """Subtracts the mean of the first query that it ever saw, which it keeps in one of several ways."""

    kept_by_class: torch.Tensor | None = None

    def __init__(self, held: str) -> None:
        super().__init__()
        self.linear, self.held, self.attribute = nn.Linear(4, 4), held, None
        self.function = _enclosing()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x - getattr(self, f"_by_{self.held}")(x))

    def _by_attribute(self, x: torch.Tensor) -> torch.Tensor:
        if self.attribute is None:
            self.attribute = x.mean()
        return self.attribute

    def _by_class(self, x: torch.Tensor) -> torch.Tensor:
        if FirstQuery.kept_by_class is None:
            FirstQuery.kept_by_class = x.mean()
        return FirstQuery.kept_by_class

    def _by_global(self, x: torch.Tensor) -> torch.Tensor:
        if "mean" not in CACHE:
            CACHE["mean"] = x.mean()
        return CACHE["mean"]

    def _by_default(self, x: torch.Tensor, kept: list = []) -> torch.Tensor:  # noqa: B006
        if not kept:
            kept.append(x.mean())
        return kept[0]

    def _by_closure(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


CACHE: dict[str, torch.Tensor] = {}


def _enclosing():
    kept = None

    def mean(x: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        if kept is None:
            kept = x.mean()
        return kept

    return mean


def first_by_attribute() -> nn.Module:
    return FirstQuery("attribute")


def first_by_class() -> nn.Module:
    return FirstQuery("class")


def first_by_global() -> nn.Module:
    return FirstQuery("global")


def first_by_default() -> nn.Module:
    return FirstQuery("default")


def first_by_closure() -> nn.Module:
    return FirstQuery("closure")


class ScriptedFirstQuery(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kept = torch.jit.Attribute(None, Optional[torch.Tensor])  # noqa: UP045 - TorchScript's spelling

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = self.kept
        if kept is None:
            kept = x.mean()
            self.kept = kept
        return x - kept


class CachedTable(nn.Module):
    """Computes on first use what follows from sizes and weights alone: no memory of a query."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.table = nn.Linear(4, 4), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            self.table = torch.arange(4.0).cos() * self.linear.weight.sum()
        return self.linear(x) + self.table


# ---- scripts


@torch.jit.script
def scale_down(x: torch.Tensor) -> torch.Tensor:
    """A choice by values that a trace keeps, because it is scripted."""
    if torch.equal(x, x.clamp(max=10.0)):
        return x * 1.0
    return x / 255


class CallsScripted(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return scale_down(x)


class WithNumber(nn.Module):
    def forward(self, x: torch.Tensor, factor: int = 3) -> torch.Tensor:
        return x * factor


class NeedsNumber(nn.Module):
    def forward(self, x: torch.Tensor, factor: int) -> torch.Tensor:
        return x * factor


class MaybeMasked(nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return x * 2 if mask is None else x * mask


class Unchanged(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class SharperInLargeBatches(nn.Module):
    """Rounds in batches of several rows, not in such of one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = 1e5 * (x.size(0) - 1)
        return (x + size) - size


class Sharp(nn.Module):
    """Takes a small difference of large numbers, so that single precision rounds a lot."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.register_buffer("size", torch.tensor(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.size) - self.size


def sharp(size: float) -> nn.Module:
    return Sharp(size)
