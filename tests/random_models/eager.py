"""The plain module and its double in float64: what is right, how exact it can be, and which claims are true."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch
from model import RandomModel
from queries import MIXED, NORMAL, ONE_NAN, Shape, bucket_of, draw, joined, padded, scales_of, shapes_of
from torch import Tensor, nn

# Of the largest value of an output: two units in the last place of float32. Where eager happens to be exact, such as in
# one rounding of few numbers, an answer that rounds once elsewhere is no difference (README.md has the measurement).
FLOOR = 2.0**-22
OWN_ERRORS = 4.0  # an answer may differ from eager's by this many times eager's own error
MORE_DRAWS = 8  # that eager's own error is measured on
SEEN = 2e-3  # relative: an effect of rows or padding above it must be found
UNSEEN = 1e-7  # below it there is none


class GeneratorFault(Exception):
    """The model is not what the generator says: a fault of the test itself."""


def load_source(text: str, name: str, folder: Path) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # TorchScript looks for it there
    spec.loader.exec_module(module)
    return module


def flat(result: object) -> dict[str, Tensor]:
    if isinstance(result, Tensor):
        return {"output": result}
    if isinstance(result, dict):
        return result
    return {f"output{i}": item for i, item in enumerate(result)}


@dataclass
class Case:
    """A query with its answer. Differences up to `tolerance` of each output are rounding."""

    scale: str
    shape: Shape
    inputs: list[Tensor]
    outputs: dict[str, Tensor]
    tolerance: dict[str, float] = field(default_factory=dict)


class Eager:
    def __init__(self, model: RandomModel, folder: Path, device: str = "cpu") -> None:
        self.model = model
        self.device = device
        name = model.name.replace("-", "_")
        self.plain: nn.Module = load_source(model.source, name, folder).Model().to(device)
        self.exact: nn.Module = load_source(model.reference_source, f"{name}_exact", folder).Model().double().to(device)
        with torch.no_grad():
            self.exact.load_state_dict({key: x.double() if x.is_floating_point() else x
                                        for key, x in self.plain.state_dict().items()})  # fmt: skip

    def run(self, inputs: list[Tensor], exact: bool = False) -> dict[str, Tensor]:
        module = self.exact if exact else self.plain
        with torch.inference_mode():
            copies = [x.double() if exact and x.is_floating_point() else x.clone() for x in inputs]
            copies = [x.to(self.device).clone() for x in copies]  # models write to their inputs
            return {name: x.cpu().clone() for name, x in flat(module(*copies)).items()}

    # ---- claims

    def claims(self) -> tuple[bool | None, str | None]:
        """Whether rows are independent and padding of the sequence is harmless; None: an effect too small to tell."""
        rows = lengths = 0.0
        for salt, scale in enumerate(s for s in scales_of(self.model) if s != ONE_NAN):
            for shape in shapes_of(self.model, batchable=True, padding=None):
                if salt and shape.rows == shape.length == 1:
                    continue
                inputs = draw(self.model, shape, scale, 7000 + salt)
                own = self._try(inputs)
                if own is None:
                    continue  # such as one row for batch statistics: nothing to be right or wrong
                bucket = bucket_of(self.model, shape)
                wide = Shape(bucket.rows, shape.length)
                for other in (padded(self.model, inputs, wide), joined(self.model, inputs, wide, MIXED, 8000 + salt)):
                    rows = max(rows, _effect(own, self._try(other), shape))
                largest = Shape(self.model.batches[-1], shape.length)
                rows = max(
                    rows, _effect(own, self._try(joined(self.model, inputs, largest, NORMAL, 9000 + salt)), shape)
                )
                for length in self.model.sequences:
                    if length > shape.length:
                        long = padded(self.model, inputs, Shape(shape.rows, length))
                        lengths = max(lengths, _effect(own, self._try(long), shape))
        padding = None
        if self.model.sequences and not UNSEEN < lengths <= SEEN:
            padding = "harmless" if lengths <= UNSEEN else "exact"
        batchable = None if UNSEEN < rows <= SEEN else rows <= UNSEEN
        if batchable is False and self.model.batchable:
            raise GeneratorFault(f"rows depend on each other by {rows:.1e}, built as independent")
        if padding == "exact" and self.model.padding == "harmless":
            raise GeneratorFault(f"padding changes outputs by {lengths:.1e}, built as harmless")
        return batchable, padding

    def _try(self, inputs: list[Tensor]) -> dict[str, Tensor] | None:
        try:
            return self.run(inputs, exact=True)
        except (RuntimeError, ValueError):
            return None

    # ---- answers

    def _measure(self, inputs: list[Tensor], errors: dict[str, float], like: dict[str, Tensor] | None = None) -> None:
        """Eager's own error; `like`: only of what is no padding, which is shaped like this."""
        try:
            plain, exact = self.run(inputs), self.run(inputs, exact=True)
        except (RuntimeError, ValueError):
            return  # padding that the model does not take
        for name, x in exact.items():
            part = tuple(slice(0, size) for size in (x if like is None else like[name]).shape)
            errors[name] = max(errors.get(name, 0.0), distance(plain[name][part], x[part])[0])

    def cases(self, batchable: bool, padding: str | None, pads: dict[str, int] | None = None) -> list[Case]:
        """Queries of every scale at sizes in and between the buckets. At all but the first only some sizes."""
        cases = []
        shapes = shapes_of(self.model, batchable, padding)
        for salt, scale in enumerate(scales_of(self.model)):
            few = shapes if scale == NORMAL else shapes[salt % 2 :: max(1, len(shapes) // 3)]
            errors: dict[str, float] = {}
            drawn = []
            for i, shape in enumerate(few if len(few) <= 10 else few[::2]):
                inputs = draw(self.model, shape, scale, 1000 * salt + i)
                try:
                    outputs = self.run(inputs)
                except (RuntimeError, ValueError):
                    continue  # no answer to compare with, such as batch statistics of one row
                drawn.append(Case(scale, shape, inputs, outputs))
                # Also as padded: a bucket's kernels round in their own way.
                for same in (inputs, padded(self.model, inputs, bucket_of(self.model, shape), pads)):
                    self._measure(same, errors, outputs)
            # One draw of few numbers may be exact by luck.
            for extra in range(MORE_DRAWS if drawn else 0):
                largest = max(shapes, key=lambda shape: (shape.rows, shape.length))
                self._measure(draw(self.model, largest, scale, 500 + 1000 * salt + extra), errors)
            for case in drawn:
                for name, x in case.outputs.items():
                    case.tolerance[name] = tolerance(x, errors[name])
            cases += drawn
        return cases


def tolerance(answer: Tensor, own_error: float) -> float:
    if not answer.is_floating_point():
        return 0.0
    finite = answer[answer.isfinite()].double().abs()
    largest = finite.max().item() if finite.numel() else 0.0
    return max(OWN_ERRORS * own_error, FLOOR * largest) if math.isfinite(own_error) else math.inf


def distance(a: Tensor, b: Tensor) -> tuple[float, bool]:
    """max |a - b| over what is finite in both, and whether NaN and infinities are at the same places."""
    if a.shape != b.shape:
        return math.inf, False
    a, b = a.double(), b.double()
    same = torch.equal(a.isnan(), b.isnan()) and torch.equal(a.isinf() * a.sign(), b.isinf() * b.sign())
    both = a.isfinite() & b.isfinite()
    return ((a - b)[both].abs().max().item() if both.any() else 0.0), same


def _effect(own: dict[str, Tensor], other: dict[str, Tensor] | None, shape: Shape) -> float:
    """Relative to the largest value: what other rows or positions change of the rows and positions of a query."""
    if other is None:
        return math.inf
    largest = 0.0
    for name, a in own.items():
        b = other[name][tuple(slice(0, size) for size in a.shape)]
        if a.shape != b.shape:
            return math.inf
        # Row by row: a change of a small row must not vanish beside a large one.
        for x, y in zip(a, b, strict=True) if a.ndim and shape.rows > 1 else [(a, b)]:
            error, same = distance(x, y)
            if not same:
                return math.inf
            finite = x[x.isfinite()].double().abs()
            scale = finite.max().item() if finite.numel() else 0.0
            largest = max(largest, error / max(scale, 1e-30) if error > 1e-12 else 0.0)
    return largest
