"""Models that no exporter may accept, each with a pattern for the reason that it must give."""

from __future__ import annotations

import random

from model import BATCH, Builder, Input, RandomModel

X = Input("x", "float32", (BATCH, 6))
# On a GPU what is no parameter or buffer stays behind, and the module itself fails: a true reason, too.
LEFT_BEHIND = r"on the same device"
STATE = rf"writes to|answers the same input differently|{LEFT_BEHIND}"
RANDOM = r"random"

# name, lines of __init__, lines of forward(), pattern
_KINDS: list[tuple[str, list[str], list[str], str, bool]] = [
    ("dropout", [], ["return F.dropout(self.first(x), 0.5, True)"], RANDOM, False),
    ("rand-like", [], ["return self.first(x) + torch.rand_like(x)[:, :1]"], RANDOM, False),
    ("bernoulli", [], ["return self.first(x) + torch.bernoulli(torch.full_like(x[:, :1], 0.5))"], RANDOM, False),
    ("running-maximum", ["self.seen = torch.full((1,), 1.0)"],
     ["self.seen.copy_(torch.maximum(self.seen, x.abs().max().reshape(1)))", "return self.first(x / self.seen)"],
     STATE, False),
    ("buffer", ["self.register_buffer('mean', torch.zeros(6))"],
     ["self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)", "return self.first(x - self.mean)"], STATE, False),
    ("assigned", ["self.register_buffer('last', torch.zeros(1))"],
     ["out = self.first(x) + self.last", "self.last = x.detach().max().reshape(1)", "return out"], STATE, False),
    ("constant-view", ["self.register_buffer('table', torch.ones(4, 6))"],
     ["row = self.table[1]", "row.add_(x.abs().amax())", "return self.first(x + row)"], STATE, False),
    ("in-a-list", ["self.seen = [torch.zeros(6)]"],
     ["self.seen[0].add_(x.sum(0))", "return self.first(x + self.seen[0])"], STATE, False),
    ("counter", ["self.calls = 0"], ["self.calls += 1", "return self.first(x) * self.calls"], STATE, False),
    ("batch-norm-updates", ["self.norm = nn.BatchNorm1d(6)"],
     ["return self.first(F.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True))"],
     STATE, False),
    ("traced-branch", [], ["if x.max() > 1:", "    x = x / 255", "return self.first(x)"], r"trace", False),
    ("traced-item", [], ["return self.first(x) * x.abs().max().item()"], r"trace", False),
    ("traced-loop", [],
     ["out = self.first(x)", "for i in range(int(x.abs().max())):", "    out = out + 1.0", "return out"],
     r"trace", False),
    ("complex", [], ["return torch.fft.rfft(self.first(x))"], r"complex", False),
    ("nested", [], ["return self.first(x), (x, x * 2)"], r"flat|inside", False),
    ("none", [], ["return self.first(x), None"], r"None", False),
    ("number", [], ["return self.first(x), 3.0"], r"float|tensor", False),
    ("constant", [], ["return torch.zeros(x.size(0), 3) + self.first.bias[:1].detach() * 0"], rf"constant|{LEFT_BEHIND}", False),
    ("not-finite", [], ["return torch.log(self.first(x) - 1e6)"], r"not finite", False),
    ("no-batch", [], ["return self.first(x).sum(0)"], r"batch", False),
    ("varying-shape", [], ["return self.first(x)[:, 0][x[:, 0] > 0]"], r"shape|dimension|rank|fails", False),
]  # fmt: skip


def refused_model(seed: int, source_of_choice: random.Random) -> RandomModel:
    name, init, forward, pattern, script = source_of_choice.choice(_KINDS)
    b = Builder(source_of_choice)
    b.init += [f"self.first = nn.Linear(6, {b.between(2, 6)})", *init]
    b.body += forward[:-1]
    source = b.source(seed, f"refused: {name}", (X,), forward[-1].removeprefix("return "))
    return RandomModel(seed, "refused", source, (X,), (2, 4), script=script, refused=pattern, tags=(name,))
