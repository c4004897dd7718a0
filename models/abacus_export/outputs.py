"""What forward() returns: named tensors of types that the protocol has, and how they compare."""

from __future__ import annotations

import torch
from torch import nn

from .spec import DTYPES, ExportError, last_line

_FLAT = "forward() must return a tensor, or a flat tuple, list or dict of tensors"


def named_outputs(result: object) -> dict[str, torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return {"output": _supported("output", result)}
    if hasattr(result, "_asdict"):
        result = result._asdict()
    if isinstance(result, (tuple, list)):
        result = {f"output{i}": item for i, item in enumerate(result)}
    if not isinstance(result, dict):
        raise ExportError(f"forward() returns {_article(result)}; {_FLAT}")
    return {str(name): _supported(str(name), item) for name, item in result.items()}


def _supported(name: str, item: object) -> torch.Tensor:
    if item is None:
        raise ExportError(f"output {name!r} is None; leave it out of what forward() returns")
    if isinstance(item, (tuple, list, dict)):
        raise ExportError(f"output {name!r} is {_article(item)} inside of what forward() returns; {_FLAT}")
    if not isinstance(item, torch.Tensor):
        raise ExportError(f"output {name!r} is {_article(item)}; {_FLAT}")
    if (dtype := str(item.dtype).removeprefix("torch.")) not in DTYPES:
        way_out = "return torch.view_as_real() of it" if item.is_complex() else "convert it in forward()"
        raise ExportError(f"output {name!r} is {dtype}; the types of outputs are {', '.join(DTYPES)}: {way_out}")
    if item.layout != torch.strided:
        raise ExportError(f"output {name!r} is a tensor of layout {item.layout}; return a dense one (to_dense())")
    return item


def _article(item: object) -> str:
    kind = type(item).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


class Flattened(nn.Module):
    """Returns a tensor or a tuple of tensors, which is all that a trace needs to know of dicts and dataclasses."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        outputs = tuple(named_outputs(self.module(*inputs)).values())
        return outputs[0] if len(outputs) == 1 else outputs

class _Holder(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def without_dict(script: torch.jit.ScriptModule, names: list[str], input_count: int) -> torch.jit.ScriptModule:
    """A script that returns a dict as one that returns the values of `names`, which is what the worker takes."""
    returned = script.forward.schema.returns[0].type
    if not isinstance(returned, torch.DictType):
        return script
    inputs = ", ".join(f"x{i}" for i in range(input_count))
    values = ", ".join(f"result[{name!r}]" for name in names)
    flat = torch.jit.script(_Holder(script).eval())
    try:
        flat.define(f"def forward(self, {inputs}):\n    result = self.module({inputs})\n    return {values}\n")
    except RuntimeError as error:
        raise ExportError(
            f"the scripted forward() returns {returned.annotation_str}, whose values cannot be taken out "
            f"({last_line(error)}); return a tuple, and name the outputs with --output"
        ) from error
    return flat


def relative_error(expected: torch.Tensor, actual: torch.Tensor) -> float:
    if not expected.is_floating_point():
        return 0.0 if torch.equal(expected, actual) else float("inf")
    expected, actual = expected.double(), actual.double()
    finite = expected.isfinite()
    if not torch.equal(finite, actual.isfinite()):
        return float("inf")
    expected, actual = expected[finite], actual[finite]
    if expected.numel() == 0:
        return 0.0
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Also where NaN stands."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(*(x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (a, b)))
