"""Whether a model answers every query by its inputs alone: no memory of earlier queries, no random numbers.

By running: the same input gives the same bits before and after others. By looking: what the graph of a TorchScript
writes to. The worker holds one copy of a model's tensors for all clients, so a model that writes to
them would let one client's query change another's answer.
"""

from __future__ import annotations

import contextlib
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from .outputs import relative_error, same_bits
from .spec import ExportError
from .tracing import place_in_text, place_of_call

Run = Callable[[list[torch.Tensor]], list[torch.Tensor]]

_RANDOM_RUNS = 8
_WALK_DEPTH = 8
_STATE_WAY_OUT = "a served model must not remember queries: give such a value as an input, or compute it in forward()"
_RANDOM_WAY_OUT = "switch it off (module.eval() does for dropout), or give the random numbers as an input"


def check_by_running(
    what: str,
    module: nn.Module,
    run: Run,
    inputs: list[torch.Tensor],
    others: list[list[torch.Tensor]],
    tolerance: float,
) -> None:
    """Runs `inputs`, then `others`, then `inputs` again; others that the module refuses are left out."""
    first = run(inputs)  # what the module makes on first use is no memory of a query
    before = _Snapshot(module)
    for other in others:
        with contextlib.suppress(ExportError):
            run(other)
    again = run(inputs)
    written, changed = before.compare()
    _check_random(what, run, inputs)
    same = _same(first, again)
    if written or (changed and not same):
        names = ", ".join((written or changed)[:3])
        raise ExportError(f"the {what} ({_class_name(module)}) writes to {names} when it runs; {_STATE_WAY_OUT}")
    if not same and max(relative_error(a, b) for a, b in zip(first, again, strict=True)) > tolerance:
        raise ExportError(
            f"the {what} ({_class_name(module)}) answers the same input differently after others, though none of its "
            f"tensors and numbers changed (something outside of the module, such as a closure?); {_STATE_WAY_OUT}"
        )


def _class_name(module: nn.Module) -> str:
    return module.original_name if isinstance(module, torch.jit.ScriptModule) else type(module).__name__


def check_graph(script: torch.jit.ScriptModule) -> None:
    """Looks at what is left of the graph in evaluation: a batch norm counts its batches in training only."""
    for node in _nodes(torch.jit.freeze(script, optimize_numerics=False).inlined_graph):
        if (name := _written(node)) is not None:
            raise ExportError(f"the TorchScript writes to {name} ({_described(node)}); {_STATE_WAY_OUT}")


def check_operators(script: torch.jit.ScriptModule) -> None:
    graph = torch.jit.freeze(script, optimize_numerics=False).inlined_graph
    if all(node.kind().startswith("prim::") for node in _nodes(graph)):
        raise ExportError("forward() computes nothing: its graph has no operator; its inputs or constants are returned")


def _same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(same_bits(a, b) for a, b in zip(first, second, strict=True))


# ---- random numbers


def _check_random(what: str, run: Run, inputs: list[torch.Tensor]) -> None:
    """Drawing alone does no harm (some models draw and then use it in training only); it must not reach an output."""
    if not draws_numbers(lambda: run(inputs)):
        return
    first = run(inputs)
    if all(_same(first, run(inputs)) for _ in range(_RANDOM_RUNS)):
        return
    with _FindDraws() as draws:
        run(inputs)
    source = ", ".join(list(dict.fromkeys(draws.found))[:3]) or "Python's or NumPy's random numbers"
    raise ExportError(
        f"the {what} has a random layer: the same input gives other outputs ({source}); {_RANDOM_WAY_OUT}"
    )


def draws_numbers(run: Callable[[], object]) -> bool:
    before = _generators()
    run()
    return before != _generators()


def _generators() -> tuple[object, ...]:
    numpy = sys.modules.get("numpy")
    drawn = None if numpy is None else (numpy.random.get_state()[1].tobytes(), numpy.random.get_state()[2:])
    return _torch_generators(), random.getstate(), drawn


def _torch_generators() -> list[bytes]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return [state.numpy().tobytes() for state in states]


class _FindDraws(TorchDispatchMode):
    """Names the operators that move a generator."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        before = _torch_generators()
        result = func(*args, **(kwargs or {}))
        if before != _torch_generators():
            place = place_of_call()
            self.found.append(func._schema.name + (f" at {place}" if place else ""))
        return result


# ---- memory


@dataclass(frozen=True)
class _Held:
    value: object
    content: object  # a copy


class _Snapshot:
    """Tensors and numbers that a module holds, or that are globals of the files which define its classes."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._held = {name: _Held(value, _copy(value)) for name, value in _walk_all(module)}

    def compare(self) -> tuple[list[str], list[str]]:
        """Names of the tensors that were written in place, and of all that is different now."""
        now = dict(_walk_all(self._module))
        written, changed = [], []
        for name, held in self._held.items():
            if not _equal(held.content, now.get(name)):
                changed.append(name)
                if isinstance(held.value, torch.Tensor) and now.get(name) is held.value:
                    written.append(name)
        return written, changed


def _copy(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.clone()
    return value.get_state() if isinstance(value, torch.Generator) else value


def _equal(content: object, now: object) -> bool:
    if isinstance(now, torch.Generator):
        now = now.get_state()
    if isinstance(content, torch.Tensor):
        return isinstance(now, torch.Tensor) and same_bits(content, now)
    return type(content) is type(now) and (content == now or content != content)


def _walk_all(module: nn.Module) -> Iterator[tuple[str, object]]:
    seen: set[int] = set()
    for name, value in _walk("", module, seen, 0):
        yield f"its attribute {name!r}", value
    names = {type(part).__module__ for part in module.modules()}
    for name in sorted(name for name in names if name.partition(".")[0] != "torch" and name in sys.modules):
        for path, value in _walk(name, _Globals(vars(sys.modules[name])), seen, 0):
            yield f"the global {path!r}", value


class _Globals:
    """Holds a file's globals as attributes, without what belongs to Python."""

    def __init__(self, names: Mapping[str, object]) -> None:
        self.__dict__.update({name: value for name, value in names.items() if not name.startswith("__")})


def _walk(name: str, value: object, seen: set[int], depth: int) -> Iterator[tuple[str, object]]:
    if isinstance(value, torch.Tensor):
        if value.layout == torch.strided and not value.is_quantized:
            yield name, value
        return
    if isinstance(value, (bool, int, float, torch.Generator)):
        yield name, value
        return
    if id(value) in seen or depth > _WALK_DEPTH:
        return
    seen.add(id(value))
    for path, item in _items(name, value):
        yield from _walk(path, item, seen, depth + 1)


def _items(name: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, Mapping):
        return [(f"{name}[{key!r}]", item) for key, item in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return [(f"{name}[{i}]", item) for i, item in enumerate(value)]
    prefix = f"{name}." if name else ""
    if isinstance(value, torch.jit.ScriptModule):  # what else it holds shows in its graph
        named = [*value.named_parameters(), *value.named_buffers()]
        return [(prefix + path, item) for path, item in named]
    opaque = (type, types.ModuleType, types.FunctionType, types.MethodType)
    if isinstance(value, opaque) or not hasattr(value, "__dict__"):
        return []
    attributes = dict(vars(value))
    if isinstance(value, nn.Module):
        for group in ("_parameters", "_buffers", "_modules"):
            attributes |= attributes.pop(group)
    return [(f"{prefix}{key}", item) for key, item in attributes.items()]


# ---- graphs


def _nodes(block: torch._C.Graph | torch._C.Block) -> Iterator[torch._C.Node]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _written(node: torch._C.Node) -> str | None:
    """What of the model's own tensors the node writes to."""
    if node.kind() == "prim::SetAttr":
        return f"its attribute {node.s('name')!r}"
    schema = _schema(node)
    if schema is None:
        return None
    for argument, value in zip(schema.arguments, node.inputs(), strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            if (name := _own_tensor(value)) is not None:
                return name
    return None


def _own_tensor(value: torch._C.Value) -> str | None:
    """The name of the constant or attribute that this is (a view of), if it is one."""
    while True:
        node = value.node()
        if node.kind() == "prim::Constant":
            return "a tensor that is a constant of its graph"
        if node.kind() == "prim::GetAttr":
            path = [node.s("name")]
            while (node := next(node.inputs()).node()).kind() == "prim::GetAttr":
                path.append(node.s("name"))
            return f"its attribute {'.'.join(reversed(path))!r}"
        schema = _schema(node)
        if schema is None or not schema.arguments or schema.arguments[0].alias_info is None:
            return None
        value = next(node.inputs())


def _schema(node: torch._C.Node) -> torch._C.FunctionSchema | None:
    text = node.schema()
    return None if text == "(no schema)" else torch._C.parse_schema(text)


def _described(node: torch._C.Node) -> str:
    place = place_in_text(node.sourceRange())
    return node.kind() + (f" at {place}" if place else "")
