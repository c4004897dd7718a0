"""Parts of a model that compute in another type: down to half precision and back, up to double and back."""

from __future__ import annotations

from model import Builder, Value


def half_inside(b: Builder, v: Value) -> Value:
    dtype = b.pick("torch.float16", "torch.bfloat16")
    b.tag(dtype.removeprefix("torch."))
    low, shape = b.temporary(), v.shape
    b.line(f"{low} = torch.clamp({v.name}, -50.0, 50.0).to({dtype})")
    if v.rank == 1 and b.chance(0.6):
        shape = (b.between(2, 8),)
        b.line(f"{low} = {b.module(f'nn.Linear({v.shape[0]}, {shape[0]}).to({dtype})')}({low})")
    else:
        b.line(f"{low} = {b.pick(f'torch.tanh({low})', f'{low} * 0.5', f'F.relu({low})')}")
    return b.value(f"{low}.to(torch.float32)", shape)


def double_inside(b: Builder, v: Value) -> Value:
    b.tag("float64")
    wide = b.temporary()
    b.line(f"{wide} = {v.name}.double()")
    if v.rank < 3:
        b.line(f"{wide} = {b.module(f'nn.Linear({v.shape[-1]}, {v.shape[-1]}).double()')}({wide})")
    return b.value(f"torch.tanh({wide}).to(torch.float32)", v.shape)
