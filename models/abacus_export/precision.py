"""How exactly a module computes: the same module in double precision as the measure.

Folding, fusing, another batch size and padding reorder roundings, so their effect is of the size of the module's own
rounding error. Double precision tells the two apart: rounding all but disappears there, everything else stays.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .outputs import named_outputs, relative_error

# Largest accepted |optimised - plain| / max|plain|, by the type that a module computes in.
_USUAL = {torch.float16: 2e-2, torch.bfloat16: 5e-2}
_USUAL_OTHERS = 1e-3
_MARGIN = 4.0
_LARGEST_TOLERANCE = 0.25  # more is no rounding, but a choice that falls the other way
# Differences that rounding explains, by the least exact type that takes part in a pass in "double precision".
ROUNDING_OF_DOUBLE = 1e-9
_ROUNDING = {torch.float64: ROUNDING_OF_DOUBLE, torch.float32: 1e-5}

Outputs = list[torch.Tensor]


def usual_tolerance(dtypes: Iterable[torch.dtype]) -> float:
    return max((_USUAL.get(dtype, _USUAL_OTHERS) for dtype in dtypes), default=_USUAL_OTHERS)


def largest_error(expected: Outputs, actual: Outputs) -> float:
    return max((relative_error(a, b) for a, b in zip(expected, actual, strict=True)), default=0.0)


class Precise:
    """A copy of a module in double precision, or in single where half does not run in double."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._dtype: torch.dtype | None = torch.float64  # None: it runs in no type that is more exact
        self._copy: nn.Module | None = None

    def run(self, inputs: list[torch.Tensor]) -> Outputs | None:
        """Its outputs; None: it does not run in double precision."""
        found = self.run_and_look(inputs)
        return None if found is None else found[0]

    def run_and_look(self, inputs: list[torch.Tensor]) -> tuple[Outputs, float] | None:
        """Its outputs, and the largest difference between two passes that is explained by rounding."""
        if self._dtype is None:
            return None
        try:
            if self._copy is None:
                self._copy = copy.deepcopy(self._module).to(self._dtype)
            wide = [x.to(self._dtype, copy=True) if x.is_floating_point() else x.clone() for x in inputs]
            with torch.jit.optimized_execution(False), _LeastExact() as seen:
                outputs = list(named_outputs(self._copy(*wide)).values())
        except Exception:  # types fixed in its code, an operator without a kernel, what cannot be copied
            self._copy = None
            half = self._dtype == torch.float64 and any(p.dtype in _USUAL for p in self._module.parameters())
            self._dtype = torch.float32 if half else None
            return self.run_and_look(inputs)
        return outputs, _ROUNDING.get(seen.dtype, usual_tolerance([seen.dtype]))

    def tolerance_at(self, inputs: list[torch.Tensor], outputs: Outputs) -> float:
        """What a module that gave `outputs` may differ by because it rounds; 0: not known."""
        precise = self.run(inputs)
        if precise is None or len(precise) != len(outputs):
            return 0.0
        tolerances = [_MARGIN * relative_error(a, b) for a, b in zip(precise, outputs, strict=True)]
        return max((tolerance for tolerance in tolerances if tolerance <= _LARGEST_TOLERANCE), default=0.0)


class _LeastExact(TorchDispatchMode):
    """Notes the least exact floating type that an operator gives."""

    def __init__(self) -> None:
        super().__init__()
        self.dtype = torch.float64

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                if torch.finfo(value.dtype).eps > torch.finfo(self.dtype).eps:
                    self.dtype = value.dtype
        return result
