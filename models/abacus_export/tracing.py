"""Traces a module, and finds out which of the tracer's warnings mean that the trace may be wrong.

A trace records operators, not Python: a value that Python reads out of a tensor becomes a constant. That is wrong where
the value depends on the inputs' contents, and right where it follows from sizes (which are verified at every bucket) or
from weights. The warnings do not tell one from the other, so a second trace follows what derives from the inputs. Reads
of torch.nn itself, which PyTorch holds to be harmless, are left to verification at every bucket.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .spec import ExportError, last_line

_TORCH = str(Path(torch.__file__).parent) + os.sep
_TORCH_NN = _TORCH + "nn" + os.sep
_RUNS_MODULES = {str(Path(__file__).with_name("runner.py"))}
_BETWEEN = {__file__, str(Path(__file__).with_name("outputs.py")), warnings.__file__}
# No operator that reads a value follows these. The first depends on a size; what the second makes constant can come
# from the inputs only through a read that has a warning of its own.
_OF_SIZES = "Iterating over a tensor"
_OF_CONSTANTS = "results are registered as constants"
# These answer a Python bool without a warning of the tracer.
_SILENT_READS = ("aten::equal", "aten::allclose")
_SHOWN_PLACES = 3


@dataclass
class Traced:
    script: torch.jit.ScriptModule
    of_sizes: list[str]  # places where the trace took a size, a weight or a value of torch.nn for a constant


def trace(module: nn.Module, inputs: list[torch.Tensor]) -> Traced:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the second trace looks at them
            script = torch.jit.trace(module, _copies(inputs), check_trace=False)
        reads = _find_reads(module, inputs)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"cannot be traced ({last_line(error)}); try --script, or pass a TorchScript file") from error
    if wrong := [read for read in reads if not read.harmless]:
        places = _listed([read.place for read in wrong])
        raise ExportError(
            f"{places}: {wrong[0].reason}. A trace keeps what this value was for one example: use --script, or keep "
            "such choices out of forward() (torch.where() instead of a branch)"
        )
    return Traced(script, [read.place for read in reads])


def _in_torch_nn() -> bool:
    """Whether the code that runs now is torch.nn's own: a GRU reads the batch size of a packed sequence as a value."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename in _BETWEEN:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(_TORCH_NN)


def place_of_call() -> str:
    """FILE:LINE of the model's code that runs now: the innermost frame outside of PyTorch, if the model has one."""
    frame, innermost = sys._getframe(2), ""  # of the caller's caller
    while frame is not None and frame.f_code.co_filename not in _RUNS_MODULES:
        file = frame.f_code.co_filename
        if file not in _BETWEEN:
            place = f"{_short(file)}:{frame.f_lineno}"
            if not file.startswith(_TORCH):
                return place
            innermost = innermost or place
        frame = frame.f_back
    return innermost


def place_in(frames: traceback.StackSummary) -> str:
    """The same of a traceback."""
    own = [f for f in frames if not f.filename.startswith(_TORCH) and Path(f.filename).parent != Path(__file__).parent]
    return f"{_short(own[-1].filename)}:{own[-1].lineno}" if own else ""


def place_in_text(text: str) -> str:
    """The same of what TorchScript says: in an error, or of a node."""
    found = re.findall(r'([^\s"(]+\.py)(?:\((\d+)\)|", line (\d+))', text)
    own = [(file, a or b) for file, a, b in found if not file.startswith("code/") and "/torch/" not in file]
    return f"{_short(own[0][0])}:{own[0][1]}" if own else ""


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def _listed(places: list[str]) -> str:
    distinct = list(dict.fromkeys(places))
    more = len(distinct) - _SHOWN_PLACES
    return ", ".join(distinct[:_SHOWN_PLACES]) + (f" and {more} more" if more > 0 else "")


def _copies(inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return tuple(x.clone() for x in inputs)


@dataclass
class _Read:
    """A value that Python took out of a tensor."""

    place: str
    reason: str
    harmless: bool


def _find_reads(module: nn.Module, inputs: list[torch.Tensor]) -> list[_Read]:
    copies = _copies(inputs)
    with warnings.catch_warnings(), _FollowInputs(copies) as follow:
        # All of the tracer's, also those of PyTorch's own code, which PyTorch itself leaves out.
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=torch.jit.TracerWarning)
        show = warnings.showwarning

        def look(message: Warning | str, category: type[Warning], *rest: object, **named: object) -> None:
            if issubclass(category, torch.jit.TracerWarning):
                follow.warned(str(message))
            else:
                show(message, category, *rest, **named)

        warnings.showwarning = look
        torch.jit.trace(_Copied(module), copies, check_trace=False)
    return follow.reads


class _Copied(nn.Module):
    """Copies what a module returns: under a dispatch mode the tracer does not see that a convolution's output is one.

    It would refuse an output for which it knows no operator; of the operator before it only warnings matter here.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(output.clone() for output in tree_leaves(self.module(*inputs)))


@dataclass
class _Followed:
    """Storages that hold something computed from the inputs. Kept, so that no other takes the place of one."""

    storages: dict[int, torch.UntypedStorage] = field(default_factory=dict)

    def add(self, tensor: torch.Tensor) -> None:
        if torch._C._has_storage(tensor):
            storage = tensor.untyped_storage()
            self.storages[storage._cdata] = storage

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return not torch._C._has_storage(tensor) or tensor.untyped_storage()._cdata in self.storages


class _FollowInputs(TorchDispatchMode):
    """Sees every operator, what derives from the inputs, and which operator comes after a warning of the tracer.

    Sizes are no tensors for it: while tracing PyTorch makes a new one of each, which derives from no input.
    """

    def __init__(self, inputs: tuple[torch.Tensor, ...]) -> None:
        super().__init__()
        self.reads: list[_Read] = []
        self._followed = _Followed()
        for tensor in inputs:
            self._followed.add(tensor)
        self._sizes_depend_on_inputs = False
        self._pending: _Read | None = None

    def warned(self, text: str) -> None:
        read = _Read(place_of_call(), _first_sentences(text), harmless=False)
        self.reads.append(read)
        if _in_torch_nn():
            read.harmless = True
        elif _OF_CONSTANTS in text or _OF_SIZES in text:
            read.harmless = not self._sizes_depend_on_inputs
        else:
            self._pending = read

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        derived = any(tensor in self._followed for tensor in _tensors((args, kwargs)))
        made = list(_tensors(result))
        pending, self._pending = self._pending, None
        if made:
            if derived:
                for tensor in made:
                    self._followed.add(tensor)
                self._sizes_depend_on_inputs |= _size_depends_on_values(func, args)
        elif pending is not None:
            pending.harmless = not derived and not self._sizes_depend_on_inputs
        elif derived and func._schema.name in _SILENT_READS and torch.jit.is_tracing():  # no scripted function asks
            self.reads.append(_Read(place_of_call(), f"{func._schema.name} answers a Python bool", harmless=False))
        return result


def _size_depends_on_values(func: torch._ops.OpOverload, args: tuple) -> bool:
    """Indexing is tagged whatever the indices are: those that are numbers have a size of their own."""
    if func is torch.ops.aten.index.Tensor:
        return any(index.dtype in (torch.bool, torch.uint8) for index in _tensors(args[1]))
    return torch.Tag.dynamic_output_shape in func.tags


def _tensors(values: object) -> Iterator[torch.Tensor]:
    return (value for value in tree_leaves(values) if isinstance(value, torch.Tensor))


def _first_sentences(text: str) -> str:
    return ". ".join(" ".join(text.split()).split(". ")[:2]).rstrip(".!")
