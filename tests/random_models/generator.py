"""The model of a seed: the same on every machine."""

from __future__ import annotations

import random

from layers import ANY, BY_RANK, MAX_SIZE, convolution, flatten, linear
from model import BATCH, Builder, Input, RandomModel, Value
from refusals import refused_model
from rows import add_dependence
from sequences import sequence_model

REFUSED_SHARE = 0.04
_BATCHES = ((1, 2, 4), (1, 2, 4), (1, 4), (2, 4), (1, 3), (4,))


def make_model(seed: int) -> RandomModel:
    choice = random.Random(seed)
    if choice.random() < REFUSED_SHARE:
        return refused_model(seed, choice)
    if choice.random() < 0.3:
        return _sequence(seed, Builder(choice, script=choice.random() < 0.2))
    return _fixed(seed, Builder(choice, script=choice.random() < 0.3))


def _sequence(seed: int, b: Builder) -> RandomModel:
    inputs, outputs, harmless = sequence_model(b)
    if b.chance(0.08):
        b.batchable = False
        b.tag("meet")
        b.line("mean = s.mean(0, keepdim=True).mean(1)")
        outputs.append(f"{_row_vector(inputs)} + mean")
        harmless = False
    padding = "harmless" if harmless else "exact"
    kind = "sequence"
    lengths = b.pick((4, 8), (8,), (3, 6), (5, 7, 12))
    batches = _batches(b)
    source = b.source(seed, " ".join([kind, *b.tags]), inputs, _returned(b, outputs))
    return RandomModel(seed, kind, source, inputs, batches, lengths, b.script, b.batchable, padding, tags=tuple(b.tags))


def _batches(b: Builder) -> tuple[int, ...]:
    return b.random.choice([sizes for sizes in _BATCHES if sizes[0] >= b.least_rows])


def _row_vector(inputs: tuple[Input, ...]) -> str:
    first = inputs[0].name
    return f"{first}.to(torch.float32).flatten(1).sum(1, keepdim=True)"


def _fixed(seed: int, b: Builder) -> RandomModel:
    inputs, v, exact_condition, extra_outputs = _fixed_inputs(b)
    depth = b.between(2, 9)
    dependent_at = b.between(0, depth - 1) if b.chance(0.15) else -1
    for step in range(depth):
        if step == dependent_at:
            v = add_dependence(b, v, exact_condition if b.script else None)
        layers = BY_RANK[v.rank] if v.rank in BY_RANK and (v.rank == 3 or b.chance(0.6)) and b.chance(0.65) else ANY
        v = b.random.choice(layers)(b, v)
        if v.rank == 0 or v.rank > 3 or v.size > MAX_SIZE:
            v = b.value(
                f"{v.name}.reshape({v.name}.size(0), -1)[:, :{min(v.size, 64)}]", (min(v.size, 64),), v.writable
            )
    if b.chance(0.5) and v.rank > 1:
        v = linear(b, flatten(b, v))
    elif b.chance(0.3):
        v = convolution(b, v) if v.rank == 3 else linear(b, v)
    outputs = _outputs(b, inputs, v) + extra_outputs
    batches = _batches(b)
    kind = {1: "vector", 2: "signal", 3: "image"}[len(inputs[0].shape) - 1]
    source = b.source(seed, " ".join([kind, *b.tags]), inputs, _returned(b, outputs))
    return RandomModel(seed, kind, source, inputs, batches, (), b.script, b.batchable, tags=tuple(b.tags))


def _fixed_inputs(b: Builder) -> tuple[tuple[Input, ...], Value, str | None, list[str]]:
    """Inputs, the value that they make together, a condition on them that rounding cannot flip, and integer outputs."""
    shape = b.pick(
        (b.between(1, 4), b.between(4, 16), b.between(4, 16)), (3, 8, 8), (b.between(2, 6), b.between(4, 12)),
        (b.between(3, 16),), (b.between(3, 16),),
    )  # fmt: skip
    dtype = b.pick(*["float32"] * 8, "float64", "float16", "uint8")
    ranged = dtype == "float32" and b.chance(0.08)
    low, high = (0, 255) if dtype == "uint8" else (0.01, 1.0) if ranged else (None, None)
    inputs = [Input("x", dtype, (BATCH, *shape), low, high)]
    extra: list[str] = []
    condition = None
    if dtype == "uint8":
        first = b.value("x.to(torch.float32) / 255", shape)
    elif dtype != "float32":
        first = b.value("x.to(torch.float32)", shape)
    elif ranged:
        b.tag("float-range")
        first = b.value(b.pick("torch.log(x)", "1.0 / x", "x.sqrt()", "torch.logit(x * 0.98)"), shape)
    else:
        first = Value("x", shape)
        b.values.append(first)
        condition = b.pick(
            "x.max() > 2.0", "x.sum() > 0", "x.abs().amax() > 100.0", "x[0].max() > 1.0", "(x > 0).all()"
        )
    if dtype == "float32" and b.chance(0.08):
        extra.append("positive")
        b.line("positive = x > 0")
    others = b.pick([], [], [], ["vector"], ["label"], ["labels"], ["vector", "label"], ["steps"])
    for other in others:
        first = _join(b, inputs, first, other, extra)
    return tuple(inputs), first, condition, extra


def _join(b: Builder, inputs: list[Input], v: Value, kind: str, extra: list[str]) -> Value:
    b.tag(kind)
    channels = v.shape[0]
    if kind == "vector":
        size = b.between(2, 6)
        inputs.append(Input("side", "float32", (BATCH, size)))
        side = b.value(f"{b.module(f'nn.Linear({size}, {channels})')}(side)", (channels,))
    elif kind == "label":
        inputs.append(Input("label", b.pick("int64", "int32"), (BATCH,), 0, 9))
        side = b.value(f"{b.module(f'nn.Embedding(10, {channels})')}(label)", (channels,))
        if b.chance(0.3):
            extra.append(b.pick("label * 10", "label > 4", "label"))
    elif kind == "labels":
        inputs.append(Input("labels", "int64", (BATCH, 3), 0, 9))
        side = b.value(f"{b.module(f'nn.Embedding(10, {channels})')}(labels).sum(1)", (channels,))
        if b.chance(0.3):
            extra.append(b.pick("labels.sum(1)", "labels.flip(1)", "labels.unsqueeze(2)"))
    else:
        inputs.append(Input("steps", "int64", (BATCH,), 0, 4))
        return _steps(b, v)
    text = f"{side.name}[{', '.join([':, :'] + ['None'] * (v.rank - 1))}]" if v.rank > 1 else side.name
    return b.value(f"{v.name} {b.pick('+', '*')} {text}", v.shape)


def _steps(b: Builder, v: Value) -> Value:
    """As many turns as each row asks for: a loop over values where scripted. The rows stay independent."""
    made = b.value(f"{v.name} * 1.0", v.shape)
    shape = ", ".join(["-1"] + ["1"] * v.rank)
    turns = "int(steps.max())" if b.script else "5"
    b.line(f"for i in range({turns}):")
    b.line(f"    going = (steps > i).to({made.name}.dtype).reshape({shape})")
    b.line(f"    {made.name} = {made.name} + going * torch.tanh({made.name} * 0.5)")
    return made


def _outputs(b: Builder, inputs: tuple[Input, ...], v: Value) -> list[str]:
    outputs = [v.name]
    while len(outputs) < 4 and b.chance(0.25):
        other = b.random.choice(b.values)
        text = b.pick(other.name, f"{other.name}.flatten(1)", f"{other.name}[:, :1]", f"{other.name}.transpose(1, -1)")
        outputs.append(text)
        b.tag("outputs")
    if b.chance(0.06):
        outputs.append(outputs[0])
        b.tag("output-twice")
    if b.chance(0.06):
        outputs.append(b.pick(inputs[0].name, f"{inputs[0].name}[:, :1]"))
        b.tag("input-returned")
    return outputs


def _returned(b: Builder, outputs: list[str]) -> str:
    if len(outputs) > 1 and b.chance(0.2):
        same_type = all(name[0] in "vsp" for name in outputs)
        if not b.script or same_type:
            b.tag("dict")
            return "{" + ", ".join(f'"out_{i}": {text}' for i, text in enumerate(outputs)) + "}"
    return ", ".join(outputs)
