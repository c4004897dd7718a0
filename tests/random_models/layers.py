"""Layers for tensors of fixed shape. Each takes a builder and a value and returns the value that it makes.

All act on each row of the batch by itself; rows.py has those that do not. Nothing here jumps: where a condition or an
order is computed from values, the result is continuous in them, so that rounding cannot flip it.
"""

from __future__ import annotations

from collections.abc import Callable

from dtypes import double_inside, half_inside
from model import Builder, Value

Layer = Callable[[Builder, Value], Value]
MAX_SIZE = 1600  # elements of a row


# ---- any rank


def activation(b: Builder, v: Value) -> Value:
    low, high = b.number(-3, 0.2), b.number(0.3, 6)
    slope = b.number(0.01, 0.5)
    x = v.name
    text = b.pick(
        f"torch.clamp({x}, {low}, {high})",
        f"torch.clamp({x}, {low * 10}, {high * 30})",
        f"torch.clamp({x}, min={low})",
        f"{x}.clamp(max={high})",
        f"F.hardtanh({x}, {low}, {high})",
        b.module(f"nn.Hardtanh({low}, {high * 4})") + f"({x})",
        f"F.relu6({x})",
        f"torch.relu({x})",
        b.module("nn.ReLU()") + f"({x})",
        b.module("nn.ReLU6()") + f"({x})",
        f"F.leaky_relu({x}, {slope})",
        b.module(f"nn.LeakyReLU({slope})") + f"({x})",
        f"F.gelu({x})",
        f"F.gelu({x}, approximate='tanh')",
        f"F.hardswish({x})",
        *(
            f"F.{name}({x})"
            for name in ("hardsigmoid", "elu", "selu", "silu", "mish", "softsign", "logsigmoid", "tanhshrink")
        ),
        f"F.elu({x}, {slope * 3})",
        f"F.celu({x}, {slope + 0.5})",
        f"F.softplus({x}, beta={high})",
        f"F.softshrink({x}, {slope})",
        f"torch.tanh({x})",
        f"{x}.sigmoid()",
        b.module("nn.PReLU()") + f"({x})",
        f"torch.where({x} > 0, {x}, {x} * {slope})",
        f"{x}.masked_fill({x} < 0, 0.0)",
        f"torch.maximum({x}, {x} * {slope})",
        f"{x}.abs()",
    )
    return b.value(text, v.shape)


def bounded_pair(b: Builder, v: Value) -> Value:
    """Several bounds in one model, with something between them."""
    b.tag("bounds")
    low, high = b.number(-900, -50), b.number(50, 900)
    first = b.pick(f"torch.clamp({v.name}, {low}, {high})", f"F.hardtanh({v.name}, {low}, {high})")
    middle = linear_map(b, b.value(first, v.shape))
    low, high = b.number(-5, -0.1), b.number(0.1, 20)
    text = f"F.hardtanh({middle.name}, {low}, {high})", f"torch.clamp({middle.name}, {low}, {high})"
    return b.value(b.pick(*text, f"F.relu6({middle.name})"), middle.shape)


def linear_map(b: Builder, v: Value) -> Value:
    if v.rank == 3:
        return convolution(b, v)
    return linear(b, v)


def scalar(b: Builder, v: Value) -> Value:
    number = b.pick(b.number(0.2, 3), b.number(-3, -0.2), b.between(1, 4))
    text = b.pick(
        f"{v.name} * {number}", f"{v.name} + {number}", f"{number} - {v.name}", f"{v.name} / {number}",
        f"torch.add({v.name}, {v.name}, alpha={number})", f"-{v.name}", f"torch.rsub({v.name}, {number})",
    )  # fmt: skip
    return b.value(text, v.shape)


def constant(b: Builder, v: Value) -> Value:
    """A tensor constant that is broadcast to the value: of the last dimension, the channels, one number, an integer."""
    channels = f"{v.shape[0]}" + ", 1" * (v.rank - 1)
    shape = b.pick(f"{v.shape[-1]}", channels, channels, "1", f"1, {channels}")
    text = b.pick(f"torch.rand({shape}) + 0.5", f"torch.randn({shape})", f"torch.randint(1, 5, ({shape},))")
    if b.chance(0.15):
        b.tag("float64-constant")
        wide = b.constant(f"torch.rand({shape}).double() + 0.5")
        return b.value(f"({v.name} {b.pick('*', '+', '-')} {wide}).to(torch.float32)", v.shape)
    operator = b.pick("*", "+", "-") if "randn(" in text else b.pick("*", "+", "-", "/")
    return b.value(f"{v.name} {operator} {b.constant(text)}", v.shape)


def residual(b: Builder, v: Value) -> Value:
    others = [other for other in b.values if other.shape == v.shape and other is not v]
    if not others:
        made = linear_map(b, v) if v.rank < 3 else convolution(b, v, same=True)
        if made.shape != v.shape:
            return made
        others = [v]
        v = made
    other = b.random.choice(others)
    b.tag("residual")
    text = b.pick(
        f"{v.name} + {other.name}", f"torch.add({v.name}, {other.name})", f"{v.name} * {other.name}.sigmoid()"
    )
    return b.value(text, v.shape)


def in_place(b: Builder, v: Value) -> Value:
    if not v.writable:
        return scalar(b, v)
    b.tag("in-place")
    low, high = b.number(-2, -0.1), b.number(0.1, 5)
    operation = b.pick(
        f"add_({high})", f"mul_({low})", "relu_()", f"clamp_({low}, {high})", f"sub_({low})", f"div_({high})",
        "neg_()", "tanh_()", f"clamp_(max={high * 20})", f"mul_({v.name}.sigmoid())", f"add_({v.name}, alpha={low})",
        f"copy_(torch.tanh({v.name}) * {high})",
    )  # fmt: skip
    function = b.pick(f"F.leaky_relu_({v.name}, 0.1)", f"F.hardtanh_({v.name}, {low}, {high})", f"F.elu_({v.name})")
    if b.chance(0.3):
        return b.value(function, v.shape)
    if b.chance(0.4):
        return b.value(f"{v.name}.{operation}", v.shape)
    b.line(f"{v.name}.{operation}")
    return v


def write_to_view(b: Builder, v: Value) -> Value:
    """Changes a value through a view of it; values that share its memory change, too."""
    if not v.writable:
        return scalar(b, v)
    b.tag("view-write")
    half, number = max(1, v.shape[0] // 2), b.number(-2, 2)
    last = v.shape[-1]
    line = b.pick(
        f"{v.name}[:, :{half}] = {number}",
        f"{v.name}[:, 0].add_({number})",
        f"{v.name}.select(1, {v.shape[0] - 1}).mul_({number})",
        f"{v.name}.narrow(-1, 0, {max(1, last // 2)}).clamp_(-1.0, {abs(number)})",
        f"{v.name}.flatten(1)[:, ::2].mul_({number})" if b.chance(0.5) else f"{v.name}[..., ::2] *= {number}",
        f"{v.name}[:, {half}:] += {number}",
        f"{v.name}[..., {last - 1}].fill_({number})",
        f"{v.name}.transpose(1, -1).sub_({number})",
    )
    b.line(line)
    return v


def copy(b: Builder, v: Value) -> Value:
    text = b.pick(f"{v.name}.clone()", f"{v.name}.contiguous()", f"{v.name} + 0", f"{v.name}.detach()")
    return b.value(text, v.shape, v.writable or "clone" in text or "+" in text)


def chunks(b: Builder, v: Value) -> Value:
    """Parts of the first dimension, put together in another way."""
    if v.shape[0] % 2:
        return flip(b, v)
    first, second = b.temporary(), b.temporary()
    half = (v.shape[0] // 2, *v.shape[1:])
    b.line(b.pick(f"{first}, {second} = {v.name}.chunk(2, 1)", f"{first} = {v.name}[:, :{half[0]}]"))
    if "chunk" not in b.body[-1]:
        b.line(f"{second} = {v.name}[:, {half[0]}:]")
    if b.chance(0.3):
        return b.value(f"torch.cat([{second}, {first}], 1)", v.shape)
    if b.chance(0.3):
        return b.value(f"F.glu({v.name}, 1)", half)
    return b.value(f"{first} {b.pick('*', '+', '-')} torch.sigmoid({second})", half)


def flip(b: Builder, v: Value) -> Value:
    text = f"{v.name}.flip(1)", f"torch.roll({v.name}, 1, 1)", f"torch.flip({v.name}, [-1])"
    return b.value(b.pick(*text), v.shape)


def cat(b: Builder, v: Value) -> Value:
    others = [other for other in b.values if other.rank == v.rank and other.shape[1:] == v.shape[1:]]
    other = b.random.choice(others)
    if v.size + other.size > MAX_SIZE:
        return v
    return b.value(f"torch.cat([{v.name}, {other.name}], 1)", (v.shape[0] + other.shape[0], *v.shape[1:]))


def piece(b: Builder, v: Value) -> Value:
    """A view of a part."""
    if v.shape[0] < 3:
        return flip(b, v)
    start = b.between(0, 1)
    length = v.shape[0] - 1
    text = f"{v.name}[:, {start}:{start + length}]", f"{v.name}.narrow(1, {start}, {length})"
    return b.value(b.pick(*text), (length, *v.shape[1:]), v.writable)


def sorted_values(b: Builder, v: Value) -> Value:
    if b.chance(0.5):
        return b.value(f"torch.sort({v.name}, dim=1)[0]", v.shape)
    count = max(1, v.shape[0] - 1)
    return b.value(f"{v.name}.topk({count}, 1)[0]", (count, *v.shape[1:]))


def loop(b: Builder, v: Value) -> Value:
    """A fixed number of turns through the same weights."""
    if v.rank == 3:
        return activation(b, v)
    b.tag("loop")
    layer = b.module(f"nn.Linear({v.shape[-1]}, {v.shape[-1]})")
    made = b.value(f"{v.name}.clone()", v.shape)
    turns = b.between(2, 3)
    if b.chance(0.5):
        b.line(f"for i in range({turns}):")
        b.line(f"    {made.name} = torch.tanh({layer}({made.name})) + {made.name} * float(i)")
    elif b.chance(0.5):
        b.line("turn = 0")
        b.line(f"while turn < {turns}:")
        b.line(f"    {made.name} = {made.name} + torch.tanh({layer}({made.name}))")
        b.line("    turn += 1")
    else:
        parts = b.temporary()
        b.line(f"{parts}: List[Tensor] = []")
        b.line(f"for i in range({turns}):")
        b.line(f"    {parts}.append(torch.tanh({layer}({made.name})) * float(i + 1))")
        b.line(f"{made.name} = {b.pick(f'torch.stack({parts}).sum(0)', f'{parts}[0] + {parts}[1]')}")
    return made


def branch_on_size(b: Builder, v: Value) -> Value:
    b.tag("size-branch")
    made = b.value(f"{v.name} * 0.5", v.shape)
    b.line(f"if {v.name}.size(1) > {b.between(1, 6)}:")
    b.line(f"    {made.name} = torch.relu({made.name}) + {v.name}")
    b.line("else:")
    b.line(f"    {made.name} = torch.tanh({made.name})")
    return made


ANY: list[Layer] = [
    activation, activation, activation, activation, bounded_pair, scalar, constant, constant, residual, residual,
    in_place, in_place, write_to_view, half_inside, double_inside, copy, chunks, flip, cat, piece, sorted_values, loop,
    branch_on_size,
]  # fmt: skip


# ---- vectors [F]


def linear(b: Builder, v: Value) -> Value:
    out = b.between(2, 16)
    bias = "" if b.chance(0.8) else ", bias=False"
    if b.chance(0.1):
        weight = b.constant(f"torch.randn({v.shape[-1]}, {out}) * 0.3")
        return b.value(f"torch.matmul({v.name}, {weight})", (*v.shape[:-1], out))
    layer = b.module(f"nn.Linear({v.shape[-1]}, {out}{bias})")
    return b.value(f"{layer}({v.name})", (*v.shape[:-1], out))


def vector_norm(b: Builder, v: Value) -> Value:
    size = v.shape[0]
    text = b.pick(
        b.module(f"nn.BatchNorm1d({size}{b.pick('', ', affine=False', ', eps=0.01')})"),
        b.module(f"nn.LayerNorm({size})"),
        b.module(f"nn.GroupNorm({2 if size % 2 == 0 else 1}, {size})"),
    )
    if b.chance(0.2):
        return b.value(f"F.normalize({v.name}, dim=1)", v.shape)
    made = b.value(f"{text}({v.name})", v.shape)
    return made


def linear_norm(b: Builder, v: Value) -> Value:
    """What freezing folds into one."""
    made = linear(b, v)
    return b.value(f"{b.module(f'nn.BatchNorm1d({made.shape[0]})')}({made.name})", made.shape)


def softmax(b: Builder, v: Value) -> Value:
    return b.value(
        b.pick(f"F.softmax({v.name}, dim=1)", f"F.log_softmax({v.name}, dim=-1)", f"{v.name}.cumsum(1)"), v.shape
    )


def pick_elements(b: Builder, v: Value) -> Value:
    count = b.between(2, 6)
    index = b.constant(f"torch.randint(0, {v.shape[0]}, ({count},))")
    text = f"{v.name}.index_select(1, {index})", f"{v.name}[:, {index}]"
    return b.value(b.pick(*text), (count, *v.shape[1:]))


def unflatten(b: Builder, v: Value) -> Value:
    made = linear(b, v) if v.shape[0] < 4 else v
    size = made.shape[0]
    parts = [n for n in range(2, size) if size % n == 0]
    if not parts:
        return b.value(f"{made.name}.unsqueeze({b.pick('-1', '2')})", (size, 1), made.writable)
    n = b.random.choice(parts)
    text = f"{made.name}.view(-1, {n}, {size // n})", f"{made.name}.reshape({made.name}.size(0), {n}, -1)"
    text = b.pick(*text) if made is not v else f"{made.name}.reshape({made.name}.size(0), {n}, {size // n})"
    return b.value(text, (n, size // n), made.writable)


def outer(b: Builder, v: Value) -> Value:
    other = linear(b, v)
    if v.size * other.size > MAX_SIZE:
        return other
    text = f"{v.name}.unsqueeze(2) * {other.name}.unsqueeze(1)", f"torch.einsum('bi,bj->bij', {v.name}, {other.name})"
    return b.value(b.pick(*text), (v.shape[0], other.shape[0]))


def broadcast(b: Builder, v: Value) -> Value:
    count = b.between(2, 4)
    return b.value(f"{v.name}.unsqueeze(1).expand(-1, {count}, -1)", (count, v.shape[0]), writable=False)


def cell(b: Builder, v: Value) -> Value:
    b.tag("cell")
    size = b.between(2, 8)
    if b.chance(0.5):
        layer = b.module(f"nn.GRUCell({v.shape[0]}, {size})")
        state = b.value(f"{layer}({v.name})", (size,))
        return b.value(f"{layer}({v.name}, {state.name})", (size,))
    layer = b.module(f"nn.LSTMCell({v.shape[0]}, {size})")
    first, second = b.temporary(), b.temporary()
    b.line(f"{first}, {second} = {layer}({v.name})")
    b.line(f"{first}, {second} = {layer}({v.name}, ({first}, {second}))")
    return b.value(f"{first} + {second}", (size,))


def bilinear(b: Builder, v: Value) -> Value:
    other = linear(b, v)
    layer = b.module(f"nn.Bilinear({v.shape[0]}, {other.shape[0]}, 4)")
    return b.value(f"{layer}({v.name}, {other.name})", (4,))


def identity_graph(b: Builder, v: Value) -> Value:
    return b.value(f"{b.module('nn.Dropout(0.5)')}({v.name})", v.shape, v.writable)


VECTOR: list[Layer] = [
    linear, linear, linear, vector_norm, linear_norm, linear_norm, softmax, pick_elements, unflatten, outer, broadcast,
    cell, bilinear, identity_graph,
]  # fmt: skip


# ---- signals [C, L]


def _conv_out(length: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def signal_convolution(b: Builder, v: Value) -> Value:
    channels, length = v.shape
    groups = b.pick(1, 1, channels)
    out = groups * b.between(1, 2) if groups > 1 else b.between(1, 8)
    kernel, stride, dilation, padding = b.between(1, 3), b.between(1, 2), b.between(1, 2), b.between(0, 2)
    size = _conv_out(length, kernel, stride, padding, dilation)
    if size < 1 or out * size > MAX_SIZE:
        return linear(b, v)
    layer = b.module(
        f"nn.Conv1d({channels}, {out}, {kernel}, stride={stride}, padding={padding}, dilation={dilation}, "
        f"groups={groups})"
    )
    return b.value(f"{layer}({v.name})", (out, size))


def signal_norm(b: Builder, v: Value) -> Value:
    channels, length = v.shape
    layer = b.pick(f"nn.BatchNorm1d({channels})", f"nn.LayerNorm({length})", f"nn.GroupNorm(1, {channels})")
    if length > 1 and b.chance(0.3):
        layer = f"nn.InstanceNorm1d({channels}, affine={b.pick(True, False)})"
    return b.value(f"{b.module(layer)}({v.name})", v.shape)


def signal_pool(b: Builder, v: Value) -> Value:
    channels, length = v.shape
    if length < 3:
        return b.value(f"{v.name}.mean(-1)", (channels,))
    size = b.between(1, 3)
    out = (length - 2) // 2 + 1
    text, to = b.pick(
        (f"F.max_pool1d({v.name}, 2)", (channels, out)),
        (f"F.avg_pool1d({v.name}, 2)", (channels, out)),
        (f"F.adaptive_avg_pool1d({v.name}, {size})", (channels, size)),
        (f"F.adaptive_max_pool1d({v.name}, {size})", (channels, size)),
    )
    return b.value(text, to)


def swap(b: Builder, v: Value) -> Value:
    text = f"{v.name}.transpose(1, 2)", f"{v.name}.permute(0, 2, 1)", f"{v.name}.mT"
    return b.value(b.pick(*text), (v.shape[1], v.shape[0]), v.writable)


def attention(b: Builder, v: Value) -> Value:
    b.tag("attention")
    length, width = v.shape
    if b.chance(0.5):
        query, key = (b.value(f"{b.module(f'nn.Linear({width}, 4)')}({v.name})", (length, 4)) for _ in range(2))
        weights = b.value(f"torch.softmax({query.name} @ {key.name}.transpose(1, 2) * 0.5, -1)", (length, length))
        return b.value(f"torch.bmm({weights.name}, {v.name})", v.shape)
    if width % 2 == 0 and b.chance(0.6):
        if b.chance(0.5):
            layer = f"nn.TransformerEncoderLayer({width}, 2, {width * 2}, batch_first=True, dropout=0.0)"
            return b.value(f"{b.module(layer)}({v.name})", v.shape)
        layer = b.module(f"nn.MultiheadAttention({width}, 2, batch_first=True)")
        return b.value(f"{layer}({v.name}, {v.name}, {v.name}, need_weights=False)[0]", v.shape)
    return b.value(
        f"F.scaled_dot_product_attention({v.name}, {v.name}, {v.name}{b.pick('', ', is_causal=True')})", v.shape
    )


def recurrent(b: Builder, v: Value) -> Value:
    b.tag("recurrent")
    length, width = v.shape
    both = b.chance(0.3)
    kind, size = b.pick("GRU", "LSTM", "RNN"), b.between(2, 6)
    layer = b.module(
        f"nn.{kind}({width}, {size}, num_layers={b.between(1, 2)}, batch_first=True, bidirectional={both})"
    )
    return b.value(f"{layer}({v.name})[0]", (length, size * (2 if both else 1)))


def flatten(b: Builder, v: Value) -> Value:
    text = f"torch.flatten({v.name}, 1)", f"{v.name}.flatten(start_dim=1)", f"{v.name}.reshape({v.name}.size(0), -1)"
    return b.value(b.pick(*text), (v.size,), v.writable)


def reduce(b: Builder, v: Value) -> Value:
    dim = b.pick(1, -1)
    rest = v.shape[1:] if dim == 1 else v.shape[:-1]
    text = b.pick(f"{v.name}.mean({dim})", f"{v.name}.sum({dim})", f"{v.name}.amax({dim})", f"{v.name}.max({dim})[0]",
                  f"torch.logsumexp({v.name}, {dim})", f"torch.norm({v.name}, dim={dim})")  # fmt: skip
    return b.value(text, rest)


def unbind(b: Builder, v: Value) -> Value:
    parts = b.temporary()
    b.line(f"{parts} = {v.name}.unbind(1)")
    return b.value(f"{parts}[0] + {parts}[{v.shape[0] - 1}]", v.shape[1:])


SIGNAL: list[Layer] = [
    linear, signal_convolution, signal_convolution, signal_norm, signal_pool, swap, swap, attention, attention,
    recurrent, flatten, reduce, unbind,
]  # fmt: skip


# ---- images [C, H, W]


def convolution(b: Builder, v: Value, same: bool = False) -> Value:
    channels, height, width = v.shape
    groups = b.pick(1, 1, 1, channels, 2 if channels % 2 == 0 else 1)
    out = groups * b.between(1, 2) if groups > 1 else b.between(1, 8)
    kernel, stride, dilation, padding = b.pick(1, 2, 3, 3, 5), b.pick(1, 1, 2), b.pick(1, 1, 2), b.between(0, 2)
    if same:
        out, groups, kernel, stride, dilation, padding = channels, 1, 3, 1, 1, 1
    sizes = [_conv_out(size, kernel, stride, padding, dilation) for size in (height, width)]
    if min(sizes) < 1 or out * sizes[0] * sizes[1] > MAX_SIZE:
        return image_pool(b, v)
    mode = b.pick("reflect", "circular", "replicate") if padding < min(height, width) and b.chance(0.1) else "zeros"
    layer = b.module(
        f"nn.Conv2d({channels}, {out}, {kernel}, stride={stride}, padding={padding}, dilation={dilation}, "
        f"groups={groups}, bias={b.chance(0.7)}, padding_mode={mode!r})"
    )
    return b.value(f"{layer}({v.name})", (out, *sizes))


def convolution_norm(b: Builder, v: Value) -> Value:
    """What freezing folds into one, and what it must not fold."""
    made = convolution(b, v)
    if made.rank != 3:
        return made
    channels = made.shape[0]
    norm = f"nn.BatchNorm2d({channels}{b.pick('', '', ', affine=False', ', eps=0.1')})"
    text = b.pick(
        f"{b.module(norm)}({made.name})",
        f"{made.name} * {b.constant(f'torch.rand({channels}, 1, 1) + 0.5')}",
        f"{made.name} + {b.constant(f'torch.randn({channels}, 1, 1)')}",
        f"{made.name} / {b.constant(f'torch.rand(1, {channels}, 1, 1) + 0.5')}",
        f"{made.name} - {b.constant(f'torch.randn(1, 1, {made.shape[2]})')}",
        f"{made.name} / {b.between(2, 5)}",
    )
    result = b.value(text, made.shape)
    if b.chance(0.2):  # the convolution has another user
        return b.value(f"{result.name} + torch.tanh({made.name})", made.shape)
    return result


def transposed_convolution(b: Builder, v: Value) -> Value:
    channels, height, width = v.shape
    out, kernel, stride = b.between(1, 6), b.pick(2, 3), b.pick(1, 2)
    extra = b.between(0, stride - 1)
    sizes = [(size - 1) * stride + kernel + extra for size in (height, width)]
    if out * sizes[0] * sizes[1] > MAX_SIZE:
        return convolution(b, v)
    layer = b.module(f"nn.ConvTranspose2d({channels}, {out}, {kernel}, stride={stride}, output_padding={extra})")
    made = b.value(f"{layer}({v.name})", (out, *sizes))
    if b.chance(0.5):
        return b.value(f"{b.module(f'nn.BatchNorm2d({out})')}({made.name})", made.shape)
    return made


def image_norm(b: Builder, v: Value) -> Value:
    channels, height, width = v.shape
    layers = [
        f"nn.BatchNorm2d({channels})",
        f"nn.LayerNorm([{channels}, {height}, {width}])",
        f"nn.LayerNorm({width})",
        f"nn.GroupNorm({b.pick(1, channels)}, {channels})",
        f"nn.LocalResponseNorm({b.between(1, 3)})",
    ]
    if height * width > 1:
        layers.append(f"nn.InstanceNorm2d({channels}, affine={b.pick(True, False)})")
        layers.append(f"nn.InstanceNorm2d({channels}, track_running_stats=True)")
    layer = b.random.choice(layers)
    if height * width * channels == 1 and "Batch" not in layer:
        layer = layers[0]
    return b.value(f"{b.module(layer)}({v.name})", v.shape)


def image_pool(b: Builder, v: Value) -> Value:
    channels, height, width = v.shape
    if min(height, width) < 3:
        return b.value(f"{v.name}.mean([2, 3])", (channels,))
    size = b.between(1, 3)
    half = tuple((n - 2) // 2 + 1 for n in (height, width))
    same = tuple((n - 1) // 2 + 1 for n in (height, width))
    text, to = b.pick(
        (f"F.max_pool2d({v.name}, 2)", (channels, *half)),
        (f"F.avg_pool2d({v.name}, 2)", (channels, *half)),
        (f"F.max_pool2d({v.name}, 3, stride=2, padding=1)", (channels, *same)),
        (f"F.avg_pool2d({v.name}, 3, stride=2, padding=1, count_include_pad=False)", (channels, *same)),
        (f"F.adaptive_avg_pool2d({v.name}, {size})", (channels, size, size)),
        (f"F.adaptive_max_pool2d({v.name}, ({size}, 1))", (channels, size, 1)),
        (f"F.lp_pool2d({v.name}.abs() + 0.1, 2.0, 2)", (channels, *half)),
    )
    return b.value(text, to)


def resize(b: Builder, v: Value) -> Value:
    channels, height, width = v.shape
    if 4 * v.size > MAX_SIZE:
        return image_pool(b, v)
    if channels % 4 == 0 and b.chance(0.3):
        return b.value(f"F.pixel_shuffle({v.name}, 2)", (channels // 4, 2 * height, 2 * width))
    if b.chance(0.4):
        value = b.pick("", ", value=0.5")
        return b.value(f"F.pad({v.name}, [1, 0, 1, 2]{value})", (channels, height + 3, width + 1))
    mode = b.pick("mode='nearest'", "mode='bilinear', align_corners=False", "mode='bilinear', align_corners=True")
    return b.value(f"F.interpolate({v.name}, scale_factor=2.0, {mode})", (channels, 2 * height, 2 * width))


def squeeze_excite(b: Builder, v: Value) -> Value:
    channels = v.shape[0]
    pooled = b.value(f"{v.name}.mean([2, 3])", (channels,))
    layer = b.module(f"nn.Linear({channels}, {channels})")
    gate = b.pick("torch.sigmoid", "F.hardsigmoid")
    return b.value(f"{v.name} * {gate}({layer}({pooled.name}))[:, :, None, None]", v.shape)


def permute(b: Builder, v: Value) -> Value:
    c, h, w = v.shape
    text, to = b.pick(
        (f"{v.name}.transpose(2, 3)", (c, w, h)),
        (f"{v.name}.permute(0, 2, 3, 1)", (h, w, c)),
        (f"{v.name}.to(memory_format=torch.channels_last)", (c, h, w)),
        (f"{v.name}.flatten(2)", (c, h * w)),
        (f"{v.name}.flatten(2).transpose(1, 2)", (h * w, c)),
    )
    return b.value(text, to, v.writable)


IMAGE: list[Layer] = [
    convolution, convolution, convolution, convolution_norm, convolution_norm, convolution_norm, transposed_convolution,
    image_norm, image_norm, image_pool, image_pool, resize, squeeze_excite, permute, flatten, reduce,
]  # fmt: skip

BY_RANK: dict[int, list[Layer]] = {1: VECTOR, 2: SIGNAL, 3: IMAGE}
