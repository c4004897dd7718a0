"""Layers in which the rows of a batch depend on each other, so that padding and batching would change answers."""

from __future__ import annotations

from layers import Layer, activation
from model import Builder, Value


def batch_statistics(b: Builder, v: Value) -> Value:
    kind = {1: "BatchNorm1d", 2: "BatchNorm1d", 3: "BatchNorm2d"}[v.rank]
    b.least_rows = 2  # one row has no statistics
    made = b.value(f"{b.module(f'nn.{kind}({v.shape[0]}, track_running_stats=False)')}({v.name})", v.shape)
    return b.value(f"{made.name} + {v.name} * 0.1", v.shape)


def against_the_batch(b: Builder, v: Value) -> Value:
    text = b.pick(
        f"{v.name} - {v.name}.mean(0)",
        f"{v.name} - {v.name}.mean(0, keepdim=True) * 0.5",
        f"torch.softmax({v.name}, 0)",
        f"{v.name} / ({v.name}.abs().max() + 1.0)",
        f"{v.name}.cumsum(0)",
        f"{v.name} + {v.name}.flip(0)",
        f"{v.name} + torch.roll({v.name}, 1, 0)",
        f"torch.sort({v.name}, 0)[0]",
        f"{v.name} * torch.sigmoid({v.name}.sum())",
    )
    return b.value(text, v.shape)


def number_of_rows(b: Builder, v: Value) -> Value:
    return b.value(f"{v.name} * float({v.name}.size(0))" if b.script else f"{v.name} * {v.name}.size(0)", v.shape)


def rows_meet(b: Builder, v: Value) -> Value:
    """Attention between the rows."""
    flat = b.value(f"{v.name}.flatten(1)", (v.size,), v.writable)
    weights = b.temporary()
    b.line(f"{weights} = torch.softmax({flat.name} @ {flat.name}.t() / {float(v.size)}, -1)")
    return b.value(f"({weights} @ {flat.name}).reshape({v.name}.shape)", v.shape)


def branch_on_values(b: Builder, v: Value, condition: str) -> Value:
    b.tag("value-branch")
    made = b.value(f"{v.name} * 0.5", v.shape)
    b.line(f"if bool({condition}):")
    b.line(f"    {made.name} = torch.relu({made.name} / 2.0) - 1.0")
    if b.chance(0.5):
        b.line("else:")
        b.line(f"    {made.name} = {b.pick('torch.tanh', 'torch.sigmoid')}({made.name} * 3.0)")
    return made


def branch_on_rows(b: Builder, v: Value) -> Value:
    b.tag("rows-branch")
    made = b.value(f"{v.name} * 0.5", v.shape)
    b.line(f"if {v.name}.size(0) > 1:")
    b.line(f"    {made.name} = torch.relu({made.name}) - 1.0")
    return made


DEPENDENT: list[Layer] = [batch_statistics, against_the_batch, against_the_batch, number_of_rows, rows_meet]


def add_dependence(b: Builder, v: Value, condition: str | None) -> Value:
    """`condition`: text that is computed from the raw inputs exactly; with scripted models only."""
    b.batchable = False
    if condition is not None and b.chance(0.6):
        return branch_on_values(b, v, condition)
    if b.script and b.chance(0.3):
        return branch_on_rows(b, v)
    return activation(b, b.random.choice(DEPENDENT)(b, v))
