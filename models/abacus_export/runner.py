"""Runs one module at chosen sizes and compares what comes out."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from . import sampling, state
from .first_query import FreshCopy
from .outputs import Flattened, check_signature, named_outputs, relative_error, served_form
from .precision import Precise, largest_error, usual_tolerance
from .recipe import Built, Progress
from .spec import (
    BATCH,
    MAX_RANK,
    MAX_TENSORS,
    SEQUENCE,
    ExportError,
    ModelSpec,
    TensorSpec,
    UsageError,
    check_name,
    last_line,
)
from .tracing import trace

_LOOSE_TOLERANCE = 0.05
_TOLERANCE_SALTS = (3, 4, 5)
_FIRST_QUERY_WAY_OUT = (
    "a served model must not remember queries: compute such a value in forward() each time, or make it in __init__()"
)


class Runner:
    def __init__(self, built: Built, device: torch.device, seed: int) -> None:
        self.built = built
        self.device = device
        self.seed = seed
        self.scales = sampling.scales(built.inputs)
        self.precise = Precise(built.module)
        self.own_names: list[str] = []  # of the outputs, as forward() has them
        self.of_sizes: list[str] = []  # places where the trace took a size for a constant
        self._fresh = FreshCopy(built.module)
        if isinstance(built.module, torch.jit.ScriptModule):
            check_signature(built.module, [tensor.name for tensor in built.inputs])

    def inputs(self, batch: int, sequence: int, salt: int = 0, scale: str | None = None) -> list[torch.Tensor]:
        scale = scale or self.scales[0]
        return sampling.random_inputs(self.built.inputs, batch, sequence, self.device, self.seed + salt, scale)

    def run(self, module: nn.Module, inputs: list[torch.Tensor], what: str) -> list[torch.Tensor]:
        return list(self._run_named(module, inputs, what).values())

    def _run_named(self, module: nn.Module, inputs: list[torch.Tensor], what: str) -> dict[str, torch.Tensor]:
        try:
            with torch.jit.optimized_execution(False):  # the optimiser is the worker's to verify
                return named_outputs(module(*(x.clone() for x in inputs)))  # a module may write to its inputs
        except ExportError:
            raise
        except Exception as error:
            shapes = ", ".join(f"{s.name}{list(x.shape)}" for s, x in zip(self.built.inputs, inputs, strict=True))
            raise ExportError(
                f"the {what} fails on {shapes} ({last_line(error)}); check the inputs' shapes, dtypes and ranges"
            ) from error

    def discover_outputs(self, batches: tuple[int, ...], sequences: tuple[int, ...]) -> tuple[TensorSpec, ...]:
        """Runs the module at two batch sizes and two sequence lengths; what follows the size is symbolic."""
        module = self.built.module
        batch, length = _two_of(batches), _two_of(sequences) if sequences else (0, 0)
        has_batch = any(BATCH in tensor.shape for tensor in self.built.inputs)
        base = self._run_named(module, self.inputs(batch[0], length[0]), "module")
        wider = self._run_named(module, self.inputs(batch[1], length[0]), "module") if has_batch else base
        longer = self._run_named(module, self.inputs(batch[0], length[1]), "module") if sequences else base
        if not 1 <= len(base) <= MAX_TENSORS:
            raise ExportError(f"{len(base)} outputs; a model has 1 to {MAX_TENSORS}")
        self.own_names = list(base)
        specs = []
        for name, *tensors in zip(
            self._output_names(self.own_names), base.values(), wider.values(), longer.values(), strict=True
        ):
            shape = _symbolic_shape(f"output {name!r}", [list(t.shape) for t in tensors], batch, length, has_batch)
            specs.append(TensorSpec(name, str(tensors[0].dtype).removeprefix("torch."), shape))
        again = self.run(module, self.inputs(batch[0], length[0], salt=1), "module")
        _check_values(specs, list(base.values()), again)
        return tuple(specs)

    def check_first_query(self, batch: int, sequence: int) -> None:
        """The answer to an input does not depend on whether it came first."""
        inputs = self.inputs(batch, sequence, salt=1)
        later = self.run(self.built.module, inputs, "module")
        fresh = self._fresh.take()
        if fresh is None:
            return
        first = self.run(fresh, inputs, "module")
        again = self.run(fresh, inputs, "module")
        slack = max(largest_error(first, again), 0.01 * self.usual_tolerance())  # some kernels are not exact
        if largest_error(first, later) > slack:
            raise ExportError(
                "the module answers an input differently when it is the first one that it ever sees: it keeps "
                f"something of its first query (a value that is computed once and cached?); {_FIRST_QUERY_WAY_OUT}"
            )

    def _output_names(self, own: list[str]) -> list[str]:
        given = self.built.outputs
        if given is not None and len(given) != len(own):
            raise UsageError(f"{len(given)} output names for {len(own)} outputs")
        names = [check_name(name, "output name") for name in given or own]
        if len(set(names)) < len(names):
            raise UsageError("two outputs have the same name; --output names them")
        return names

    def tolerance(self, batches: tuple[int, ...], sequences: tuple[int, ...], progress: Progress) -> float:
        """What an optimised form may differ by: the usual for the dtype, or more where the model itself rounds more.

        Measured at both ends of the buckets, because other sizes run other kernels, which round differently.
        """
        usual, measured = self.usual_tolerance(), 0.0
        ends = {(batches[i], (sequences or (0,))[i]) for i in (0, -1)}
        for (batch, sequence), salt, scale in itertools.product(ends, _TOLERANCE_SALTS, self.scales):
            inputs = self.inputs(batch, sequence, salt, scale)
            try:
                outputs = self.run(self.built.module, inputs, "module")
            except ExportError:
                continue  # values that the model is not made for
            measured = max(measured, self.precise.tolerance_at(inputs, outputs))
        if measured <= usual:
            return usual
        measured = float(f"{1.05 * measured:.2g}")
        if measured > _LOOSE_TOLERANCE:
            progress(
                f"warning: the module rounds so much that answers may differ by {measured:.2g} of the largest value, "
                "four times its distance from double precision; verification is that loose: look at the range of its "
                "inputs and at its weights, or let it compute in float32"
            )
        return measured

    def usual_tolerance(self) -> float:
        dtypes = [tensor.dtype for tensor in self.built.module.parameters()]
        return usual_tolerance(dtypes + [getattr(torch, tensor.dtype) for tensor in self.built.inputs])

    def to_torchscript(self, batches: tuple[int, ...], sequences: tuple[int, ...]) -> torch.jit.ScriptModule:
        module = self.built.module
        if isinstance(module, torch.jit.ScriptModule):
            return served_form(module, self.own_names, len(self.built.inputs))
        # Not at size one: operations on a dimension of one trace differently from the general case.
        batch = _traced_size(batches)
        sequence = _traced_size(sequences) if sequences else 0
        traced = trace(Flattened(module), self.inputs(batch, sequence))
        self.of_sizes = traced.of_sizes
        return traced.script

    def check_state(self, module: nn.Module, what: str, batch: int, sequence: int) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            state.check_graph(module)
        inputs = self.inputs(batch, sequence)
        others = [self.inputs(batch, sequence, 1, scale) for scale in self.scales]
        tolerance = self.usual_tolerance()
        state.check_by_running(what, module, lambda x: self.run(module, x, what), inputs, others, tolerance)

    def verify(self, script: nn.Module, spec: ModelSpec) -> None:
        """Compares the saved file with the module at the corners of the buckets.

        Where the trace took sizes for constants every bucket counts: no other size ever reaches the model.
        """
        sequences = spec.sequence or (0,)
        corners = {(b, s) for b in (spec.batch[0], spec.batch[-1]) for s in (sequences[0], sequences[-1])}
        buckets = {(b, s) for b in spec.batch for s in sequences} if self.of_sizes else corners
        for salt, (batch, sequence) in enumerate(sorted(buckets), start=2):
            for scale in self.scales if (batch, sequence) in corners else self.scales[:1]:
                self._compare(script, spec, batch, sequence, salt, scale)

    def _compare(self, script: nn.Module, spec: ModelSpec, batch: int, sequence: int, salt: int, scale: str) -> None:
        inputs = self.inputs(batch, sequence, salt, scale)
        try:
            plain = self.run(self.built.module, inputs, "module")
        except ExportError:
            if scale == self.scales[0]:
                raise
            return  # values that the model is not made for
        saved = self.run(script, inputs, "saved TorchScript")
        for tensor, a, b in zip(spec.outputs, plain, saved, strict=True):
            error = relative_error(a, b)
            if error > spec.tolerance and error > self.precise.tolerance_at(inputs, plain):
                where = f"at batch {batch}" + (f", sequence {sequence}" if sequence else "")
                where += "" if scale == self.scales[0] else f", inputs {scale}"
                hint = f" (a size became a constant at {', '.join(self.of_sizes[:3])})" if self.of_sizes else ""
                raise ExportError(
                    f"output {tensor.name!r} of the TorchScript differs from the module's {where}: the trace holds "
                    f"for some sizes or values only{hint}; use --script, or keep such choices out of forward()"
                )


def _symbolic_shape(
    where: str, shapes: list[list[int]], batch: tuple[int, int], length: tuple[int, int], has_batch: bool
) -> tuple[str | int, ...]:
    """The declared shape of an output, from those at (batch, length), a second batch size, and a second length."""
    if len({len(shape) for shape in shapes}) > 1 or len(shapes[0]) > MAX_RANK:
        raise ExportError(f"{where} has shapes {shapes}; its rank must be constant and at most {MAX_RANK}")
    dims: list[str | int] = []
    for i, sizes in enumerate(zip(*shapes, strict=True)):
        if sizes == (batch[0], batch[1], batch[0]) and i == 0:
            dims.append(BATCH)
        elif length != (0, 0) and sizes == (length[0], length[0], length[1]):
            dims.append(SEQUENCE)
        elif len(set(sizes)) == 1 and sizes[0] > 0:
            dims.append(sizes[0])
        else:
            raise ExportError(
                f"{where} has shapes {shapes}: dimension {i} is neither fixed nor the batch nor the sequence"
            )
    if has_batch and (not dims or dims[0] != BATCH):
        raise ExportError(f"{where} has shape {shapes[0]}: its first dimension must be the batch")
    if dims.count(SEQUENCE) > 1:
        raise ExportError(f"{where} has the sequence dimension twice; return it in another form")
    return tuple(dims)


def _check_values(specs: list[TensorSpec], first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    """Refuses a model that answers with NaN or infinity, or always the same."""
    floating = [(spec.name, a, b) for spec, a, b in zip(specs, first, second, strict=True) if a.is_floating_point()]
    for name, a, b in floating:
        if not (a.isfinite().all() and b.isfinite().all()):
            raise ExportError(
                f"output {name!r} is not finite on random inputs; look at the weights and the input ranges"
            )
    if floating and all(bool((a == a.flatten()[0]).all()) and torch.equal(a, b) for _, a, b in floating):
        raise ExportError("every output is constant, whatever the input; look at the weights")


def _two_of(sizes: tuple[int, ...]) -> tuple[int, int]:
    return (sizes[0], sizes[1]) if len(sizes) > 1 else (sizes[0], sizes[0] + 1)


def _traced_size(sizes: tuple[int, ...]) -> int:
    return next((size for size in sizes if size > 1), 2)
