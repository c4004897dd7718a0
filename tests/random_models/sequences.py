"""Models with a sequence dimension. Each mixing of positions is either safe, so that positions behind the end of a
query change nothing, or not; `Sequence.harmless` keeps count.
"""

from __future__ import annotations

from dataclasses import dataclass

from layers import activation
from model import BATCH, SEQUENCE, Builder, Input, Value

TOKENS = 20


@dataclass
class Sequence:
    """A value of shape [batch, sequence, width] and what tells which positions count."""

    name: str
    width: int
    keep: str | None  # float tensor [batch, sequence, 1], 1 where a position counts
    length: str | None  # int64 [batch]
    ids: str | None = None
    harmless: bool = True


def sequence_model(b: Builder) -> tuple[tuple[Input, ...], list[str], bool]:
    """Inputs, texts of the outputs, and whether padding is harmless."""
    width = b.pick(4, 6, 8)
    inputs, s = _inputs(b, width)
    b.tag("mask" if s.keep else "length" if s.length else "no-mask")
    for _ in range(b.between(1, 4)):
        _mix(b, s) if b.chance(0.5) else _each(b, s)
    outputs = []
    if b.chance(0.6):
        outputs.append(_pooled(b, s))
    if not outputs or b.chance(0.4):
        outputs.append(s.name)
    if s.ids is not None and b.chance(0.2):
        outputs.append(b.pick(f"{s.ids} * 2", f"({s.ids} > 3)", s.ids))
    if s.length is not None and b.chance(0.2):
        outputs.append(f"{s.length} * 10")
    if b.chance(0.1):
        outputs.append(outputs[0])
        b.tag("output-twice")
    return inputs, outputs, s.harmless


def _inputs(b: Builder, width: int) -> tuple[tuple[Input, ...], Sequence]:
    pad = b.pick(0, 0, 1)
    floating = b.chance(0.3)
    if floating:
        features = b.between(2, 5)
        first = Input("x", "float32", (BATCH, SEQUENCE, features))
        b.line(f"s = {b.module(f'nn.Linear({features}, {width})')}(x)")
    else:
        first = Input("ids", b.pick("int64", "int64", "int32"), (BATCH, SEQUENCE), 0, TOKENS - 1, pad)
        padding = f", padding_idx={pad}" if b.chance(0.3) else ""
        b.line(f"s = {b.module(f'nn.Embedding({TOKENS}, {width}{padding})')}(ids)")
        if b.chance(0.4):
            positions = b.module(f"nn.Embedding(32, {width})")
            b.line(f"s = s + {positions}(torch.arange(ids.size(1), device=ids.device))")
    s = Sequence("s", width, None, None, None if floating else "ids")
    kind = b.pick("none", "keep", "drop", "length", "ids")
    if kind == "keep":
        dtype = b.pick("bool", "int64", "float32")
        low, high = (None, None) if dtype == "bool" else (0, 1)
        b.line("keep = mask.to(torch.float32).unsqueeze(-1)")
        s.keep = "keep"
        return (first, Input("mask", dtype, (BATCH, SEQUENCE), low, high, role="keep")), s
    if kind == "drop":
        b.line("keep = 1.0 - padding.to(torch.float32).unsqueeze(-1)")
        s.keep = "keep"
        return (first, Input("padding", "bool", (BATCH, SEQUENCE), pad=1, role="drop")), s
    if kind == "length":
        b.line("positions = torch.arange(s.size(1), device=s.device)")
        b.line("keep = (positions.unsqueeze(0) < lengths.unsqueeze(1)).to(torch.float32).unsqueeze(-1)")
        s.keep, s.length = "keep", "lengths"
        return (first, Input("lengths", "int64", (BATCH,), 1, SEQUENCE)), s
    if kind == "ids" and not floating:
        # The first position counts always: of a row in which nothing counts, attention would make something.
        b.line("first = torch.arange(ids.size(1), device=ids.device).unsqueeze(0) == 0")
        b.line(f"keep = ((ids != {pad}) | first).to(torch.float32).unsqueeze(-1)")
        s.keep = "keep"
    return (first,), s


def _each(b: Builder, s: Sequence) -> None:
    """Each position by itself."""
    v = Value(s.name, (1, s.width))
    kind = b.pick("linear", "norm", "activation", "feed-forward", "glu", "gate")
    if kind == "linear":
        b.line(f"s = {b.module(f'nn.Linear({s.width}, {s.width})')}(s)")
    elif kind == "norm":
        b.line(f"s = {b.module(f'nn.LayerNorm({s.width})')}(s)")
    elif kind == "activation":
        b.line(f"s = {activation(b, v).name}" if b.chance(0.5) else "s = F.gelu(s)")
    elif kind == "feed-forward":
        up, down = b.module(f"nn.Linear({s.width}, 12)"), b.module(f"nn.Linear(12, {s.width})")
        b.line(f"s = s + {down}({b.pick('torch.relu', 'F.gelu', 'F.hardswish', 'torch.tanh')}({up}(s)))")
    elif kind == "glu":
        b.line(f"s = F.glu({b.module(f'nn.Linear({s.width}, {2 * s.width})')}(s), -1)")
    else:
        b.line(f"s = s * torch.sigmoid({b.module(f'nn.Linear({s.width}, 1)')}(s))")


def _mix(b: Builder, s: Sequence) -> None:
    """Positions look at each other: backwards only, at what the mask keeps, or at all."""
    kinds = ["recurrent", "cumulative", "causal-convolution", "causal-attention"]
    if s.keep:
        kinds += ["attention", "attention", "encoder", "convolution", "scaled-attention", "context"]
    if b.chance(0.25):
        kinds = ["open-attention", "open-convolution", "both-ways", "flip", "open-norm"]
        s.harmless = False
    kind = b.random.choice(kinds)
    b.tag(kind)
    w = s.width
    if kind == "recurrent":
        layer = b.module(f"nn.{b.pick('GRU', 'LSTM', 'RNN')}({w}, {w}, batch_first=True)")
        b.line(f"s = {layer}(s)[0]")
    elif kind == "cumulative":
        b.line("s = torch.cumsum(torch.tanh(s), 1)")
    elif kind == "causal-convolution":
        b.line(f"s = {b.module(f'nn.Conv1d({w}, {w}, 3)')}(F.pad(s.transpose(1, 2), [2, 0])).transpose(1, 2)")
    elif kind == "causal-attention":
        b.line("s = s + F.scaled_dot_product_attention(s, s, s, is_causal=True)")
    elif kind == "attention":
        query, key = b.module(f"nn.Linear({w}, {w})"), b.module(f"nn.Linear({w}, {w})")
        b.line(f"a = {query}(s) @ {key}(s).transpose(1, 2) * 0.5")
        fill = b.pick("-1e30", "-1e25")  # below every score, at every scale of the inputs
        b.line(
            b.pick(
                f"a = a.masked_fill(keep.transpose(1, 2) == 0, {fill})",
                f"a = a + (1.0 - keep.transpose(1, 2)) * {fill}",
            )
        )
        b.line("s = s + torch.softmax(a, -1) @ s")
    elif kind == "encoder":
        text = f"nn.TransformerEncoderLayer({w}, 2, {2 * w}, batch_first=True, norm_first={b.chance(0.5)})"
        b.line(f"s = {b.module(text)}(s, src_key_padding_mask=keep.squeeze(-1) == 0)")
        b.line("s = torch.nan_to_num(s)")  # of rows in which nothing counts
    elif kind == "scaled-attention":
        b.line("a = (keep.squeeze(-1) == 0).to(torch.float32).unsqueeze(1) * -1e30")
        b.line("s = s + F.scaled_dot_product_attention(s, s, s, attn_mask=a)")
    elif kind == "context":
        b.line("s = s + (s * keep).sum(1, keepdim=True) / keep.sum(1, keepdim=True).clamp(min=1.0)")
    elif kind in ("convolution", "open-convolution"):
        layer = b.module(f"nn.Conv1d({w}, {w}, 3, padding=1)")
        b.line(f"s = {layer}({'(s * keep)' if kind == 'convolution' else 's'}.transpose(1, 2)).transpose(1, 2)")
    elif kind == "open-attention":
        b.line("s = s + torch.softmax(s @ s.transpose(1, 2) * 0.3, -1) @ s")
    elif kind == "both-ways":
        b.line(f"s = {b.module(f'nn.GRU({w}, {w // 2}, batch_first=True, bidirectional=True)')}(s)[0]")
    elif kind == "flip":
        b.line("s = s + s.flip(1)")
    else:
        b.line("s = s - s.mean(1, keepdim=True)")


def _pooled(b: Builder, s: Sequence) -> str:
    """Text of one vector for each row."""
    kinds = ["first"]
    if s.keep:
        kinds += ["mean", "max", "sum"]
    if s.length:
        kinds += ["at-length"]
        if not b.script:
            kinds += ["packed", "packed"]
    if b.chance(0.25):
        kinds = ["open-mean", "open-max", "last", *(["zero-max"] if s.keep else [])]
        s.harmless = False
    kind = b.random.choice(kinds)
    b.tag(f"pool-{kind}")
    texts = {
        "first": "s[:, 0]",
        "mean": "(s * keep).sum(1) / keep.sum(1).clamp(min=1.0)",
        "sum": "(s * keep).sum(1)",
        "max": "s.masked_fill(keep == 0, -1e30).amax(1)",
        "at-length": f"s.gather(1, (lengths - 1).reshape(-1, 1, 1).expand(-1, 1, {s.width})).squeeze(1)",
        "open-mean": "s.mean(1)",
        "open-max": b.pick("s.max(1)[0]", "s.amax(1)"),
        "last": "s[:, -1]",
        "zero-max": "(s * keep).amax(1)",  # the zero of a masked position may be the largest
    }
    if kind == "packed":
        layer = b.module(f"nn.GRU({s.width}, {s.width}, batch_first=True, bidirectional={b.chance(0.3)})")
        b.line("packed = nn.utils.rnn.pack_padded_sequence(s, lengths.cpu(), batch_first=True, enforce_sorted=False)")
        b.line(f"pooled = {layer}(packed)[1][-1]")
    else:
        b.line(f"pooled = {texts[kind]}")
    if b.chance(0.6):
        b.line(
            f"pooled = {b.module(f'nn.Linear({s.width}, {b.between(2, 6)})')}({b.pick('pooled', 'torch.tanh(pooled)')})"
        )
    return "pooled"
