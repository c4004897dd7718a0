"""What forward() returns: named tensors of types that the protocol has, and how they compare."""

from __future__ import annotations

import torch
from torch import nn

from .spec import DTYPES, ExportError, UsageError, last_line

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


def check_signature(script: torch.jit.ScriptModule, inputs: list[str]) -> None:
    """The scripted forward() takes these inputs as tensors, and nothing else that has no default."""
    arguments = script.forward.schema.arguments[1:]  # without self
    if len(arguments) < len(inputs):
        raise UsageError(f"{len(inputs)} inputs are declared, forward() takes {len(arguments)}")
    for argument, name in zip(arguments, inputs, strict=False):
        if str(argument.type) not in ("Tensor", "Optional[Tensor]"):
            raise ExportError(
                f"input {name!r} is argument {argument.name!r} of forward(), a {argument.type}; a served model gets "
                "tensors only: declare a tensor, or make it an argument of the factory or an attribute"
            )
    for argument in arguments[len(inputs) :]:
        if not argument.has_default_value():
            raise UsageError(
                f"forward() also takes {argument.name!r} ({argument.type}), which has no default: declare it with "
                "--input if it is a tensor, else make it an argument of the factory or an attribute"
            )


def served_form(script: torch.jit.ScriptModule, names: list[str], input_count: int) -> torch.jit.ScriptModule:
    """The script as the worker takes it: all arguments are tensors, and what is returned is no dict.

    Arguments with a default keep it; of a dict the values of `names` are returned.
    """
    schema = script.forward.schema
    returned = schema.returns[0].type
    of_tensors = len(schema.arguments) == 1 + input_count and all(str(a.type) == "Tensor" for a in schema.arguments[1:])
    if of_tensors and not isinstance(returned, torch.DictType):
        return script
    inputs = ", ".join(f"x{i}" for i in range(input_count))
    values = "result"
    if isinstance(returned, torch.DictType):
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


def relative_error(expected: torch.Tensor, actual: torch.Tensor, largest: float | None = None) -> float:
    """The largest difference, relative to the largest value: of `expected`, or of what these are parts of."""
    if expected.shape != actual.shape:
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if torch.equal(expected, actual) else float("inf")
    expected, actual = expected.double(), actual.double()
    finite = expected.isfinite()
    if not torch.equal(finite, actual.isfinite()):
        return float("inf")
    difference = (actual[finite] - expected[finite]).abs()
    if difference.numel() == 0:
        return 0.0
    largest = largest_value(expected) if largest is None else largest
    return difference.max().item() / max(largest, 1e-12)


def largest_value(tensor: torch.Tensor) -> float:
    values = tensor.double().abs().nan_to_num(0.0, 0.0)
    return values.max().item() if values.numel() else 0.0


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Also where NaN stands."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(*(x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (a, b)))
