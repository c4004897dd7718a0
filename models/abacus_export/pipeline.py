"""One export, from a built module to verified files."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from . import sampling, state
from .outputs import Flattened, named_outputs, relative_error, without_dict
from .recipe import Built
from .spec import (
    BATCH,
    MAX_BUCKETS,
    MAX_RANK,
    MAX_TENSORS,
    SEQUENCE,
    ExportError,
    ModelSpec,
    TensorSpec,
    UsageError,
    check_name,
    last_line,
    made_by_of,
    to_toml,
)
from .tracing import trace

# Largest accepted |optimised - plain| / max|plain|, by the type that the module computes in.
TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 5e-2}
DEFAULT_TOLERANCE = 1e-3
ROUNDING_MARGIN = 3.0

Progress = Callable[[str], None]


def is_current(out: Path, name: str, companions: tuple[str, ...], made_by: str) -> bool:
    toml = out / f"{name}.toml"
    if not all(path.exists() for path in (toml, out / f"{name}.pt", *(out / companion for companion in companions))):
        return False
    return made_by_of(toml.read_text(encoding="utf-8")) == made_by


def export(
    name: str,
    built: Built,
    batch: tuple[int, ...],
    sequence: tuple[int, ...],
    device: torch.device,
    seed: int,
    out: Path,
    made_by: str,
    progress: Progress,
) -> ModelSpec:
    """Writes NAME.pt and NAME.toml; nothing is left behind under these names unless everything was verified."""
    _check_buckets(built.inputs, batch, sequence)
    _warn_of_open_ranges(built.inputs, progress)
    out.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        runner = _Runner(built, device, seed)
        outputs = runner.discover_outputs(batch, sequence)
        spec = ModelSpec(name, runner.tolerance(batch, sequence), built.inputs, outputs, batch, sequence)
        runner.check_state(runner.built.module, "module", spec)
        progress("to TorchScript")
        script = runner.to_torchscript(batch, sequence)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=out) as directory:
            temporary = Path(directory)
            try:
                torch.jit.save(script, temporary / "model.pt")
            except RuntimeError as error:
                raise ExportError(f"cannot be saved ({last_line(error)})") from error
            progress("verifying the saved file at other sizes")
            saved = torch.jit.load(temporary / "model.pt", map_location=device).eval()
            runner.check_state(saved, "saved TorchScript", spec)
            runner.verify(saved, spec, progress)
            (temporary / "model.toml").write_text(to_toml(spec, made_by), encoding="utf-8")
            if built.write_companions is not None:
                built.write_companions(out)
            os.replace(temporary / "model.pt", out / f"{name}.pt")
            # Last: a reader that finds the TOML finds everything else too.
            os.replace(temporary / "model.toml", out / f"{name}.toml")
    return spec


def _check_buckets(inputs: tuple[TensorSpec, ...], batch: tuple[int, ...], sequence: tuple[int, ...]) -> None:
    if not 1 <= len(inputs) <= MAX_TENSORS:
        raise UsageError(f"{len(inputs)} inputs; a model has 1 to {MAX_TENSORS}")
    if batch != (1,) and not any(BATCH in tensor.shape for tensor in inputs):
        raise UsageError(
            "no input has a 'batch' dimension: put it first in the shapes, or say --batch 1 for a model without one"
        )
    uses_sequence = any(SEQUENCE in tensor.shape for tensor in inputs)
    if uses_sequence and not sequence:
        raise UsageError("an input has a 'sequence' dimension; give its lengths with --sequence")
    if not uses_sequence and sequence:
        raise UsageError("no input has a 'sequence' dimension; leave --sequence out")
    if len(batch) * max(1, len(sequence)) > MAX_BUCKETS:
        raise UsageError(f"more than {MAX_BUCKETS} buckets; use fewer batch sizes or sequence lengths")


def _warn_of_open_ranges(inputs: tuple[TensorSpec, ...], progress: Progress) -> None:
    for tensor in inputs:
        if tensor.is_integer and tensor.range is None and tensor.dtype != "bool":
            low, high = sampling.range_of(tensor)
            progress(
                f"warning: input {tensor.name!r} ({tensor.dtype}) has no range, so every value of a query reaches the "
                "model; an index outside of its table fails the query, and on a GPU can take down every worker. Only "
                f"{low}..{high} is verified; declare what is allowed, such as {tensor.name}:{tensor.dtype}:...:0..99"
            )


class _Runner:
    """Runs one module at chosen sizes and compares what comes out."""

    def __init__(self, built: Built, device: torch.device, seed: int) -> None:
        self.built = built
        self.device = device
        self.seed = seed
        self.own_names: list[str] = []  # of the outputs, as forward() has them
        self.of_sizes: list[str] = []  # places where the trace took a size for a constant

    def tolerance(self, batches: tuple[int, ...], sequences: tuple[int, ...]) -> float:
        """What an optimised form may differ by: the usual for the dtype, or more where the model itself rounds more.

        Folding and fusing reorder roundings, so their effect is of the size of the model's own rounding error: the
        difference between half and single precision, which depends on depth and weights.
        """
        usual = self._usual_tolerance()
        if not any(tensor.dtype == torch.float16 for tensor in self.built.module.parameters()):
            return usual
        single = copy.deepcopy(self.built.module).float()
        inputs = self.inputs(batches[0], sequences[0] if sequences else 0)
        wide = [x.float() if x.dtype == torch.float16 else x for x in inputs]
        half_outputs = self.run(self.built.module, inputs, "module").values()
        try:
            single_outputs = self.run(single, wide, "module in single precision").values()
        except ExportError:
            return usual  # it converts to half precision inside of forward()
        errors = [relative_error(a, b) for a, b in zip(single_outputs, half_outputs, strict=True)]
        return max(usual, float(f"{ROUNDING_MARGIN * max(errors):.2g}"))

    def _usual_tolerance(self) -> float:
        dtypes = [tensor.dtype for tensor in self.built.module.parameters()]
        dtypes += [getattr(torch, tensor.dtype) for tensor in self.built.inputs]
        return max((TOLERANCE.get(dtype, DEFAULT_TOLERANCE) for dtype in dtypes), default=DEFAULT_TOLERANCE)

    def inputs(self, batch: int, sequence: int, salt: int = 0, scale: str = sampling.NORMAL) -> list[torch.Tensor]:
        return sampling.random_inputs(self.built.inputs, batch, sequence, self.device, self.seed + salt, scale)

    def run(self, module: nn.Module, inputs: list[torch.Tensor], what: str) -> dict[str, torch.Tensor]:
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
        base = self.run(module, self.inputs(batch[0], length[0]), "module")
        wider = self.run(module, self.inputs(batch[1], length[0]), "module")
        longer = self.run(module, self.inputs(batch[0], length[1]), "module") if sequences else base
        if not 1 <= len(base) <= MAX_TENSORS:
            raise ExportError(f"{len(base)} outputs; a model has 1 to {MAX_TENSORS}")
        self.own_names = list(base)
        has_batch = any(BATCH in tensor.shape for tensor in self.built.inputs)
        specs = []
        for name, *tensors in zip(
            self._output_names(self.own_names), base.values(), wider.values(), longer.values(), strict=True
        ):
            shape = _symbolic_shape(f"output {name!r}", [list(t.shape) for t in tensors], batch, length, has_batch)
            specs.append(TensorSpec(name, str(tensors[0].dtype).removeprefix("torch."), shape))
        again = self.run(module, self.inputs(batch[0], length[0], salt=1), "module")
        _check_values(specs, list(base.values()), list(again.values()))
        return tuple(specs)

    def _output_names(self, own: list[str]) -> list[str]:
        given = self.built.outputs
        if given is not None and len(given) != len(own):
            raise UsageError(f"{len(given)} output names for {len(own)} outputs")
        names = [check_name(name, "output name") for name in given or own]
        if len(set(names)) < len(names):
            raise UsageError("two outputs have the same name; --output names them")
        return names

    def to_torchscript(self, batches: tuple[int, ...], sequences: tuple[int, ...]) -> torch.jit.ScriptModule:
        module = self.built.module
        if isinstance(module, torch.jit.ScriptModule):
            return without_dict(module, self.own_names, len(self.built.inputs))
        # Not at size one: operations on a dimension of one trace differently from the general case.
        batch = _traced_size(batches)
        sequence = _traced_size(sequences) if sequences else 0
        traced = trace(Flattened(module), self.inputs(batch, sequence))
        self.of_sizes = traced.of_sizes
        return traced.script

    def check_state(self, module: nn.Module, what: str, spec: ModelSpec) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            state.check_graph(module)
        batch, sequence = spec.batch[0], spec.sequence[0] if spec.sequence else 0
        others = [self.inputs(batch, sequence, 1, scale) for scale in sampling.scales(spec.inputs)]

        def run(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
            return list(self.run(module, inputs, what).values())

        state.check_by_running(what, module, run, self.inputs(batch, sequence), others, spec.tolerance)

    def verify(self, script: nn.Module, spec: ModelSpec, progress: Progress) -> None:
        """Compares the saved file with the module at the corners of the buckets, and looks at padding.

        Where the trace took sizes for constants every bucket counts: no other size ever reaches the model.
        """
        sequences = spec.sequence or (0,)
        corners = {(b, s) for b in (spec.batch[0], spec.batch[-1]) for s in (sequences[0], sequences[-1])}
        buckets = {(b, s) for b in spec.batch for s in sequences} if self.of_sizes else corners
        for salt, (batch, sequence) in enumerate(sorted(buckets), start=2):
            for scale in sampling.scales(spec.inputs) if (batch, sequence) in corners else (sampling.NORMAL,):
                self._compare(script, spec, batch, sequence, salt, scale)
        if len(spec.sequence) > 1:
            self._look_at_padding(script, spec, progress)

    def _compare(
        self, script: nn.Module, spec: ModelSpec, batch: int, sequence: int, salt: int, scale: str
    ) -> None:
        inputs = self.inputs(batch, sequence, salt, scale)
        try:
            plain = self.run(self.built.module, inputs, "module").values()
        except ExportError:
            if scale == sampling.NORMAL:
                raise
            return  # values that the model is not made for
        saved = self.run(script, inputs, "saved TorchScript").values()
        for tensor, a, b in zip(spec.outputs, plain, saved, strict=True):
            if a.shape != b.shape or relative_error(a, b) > spec.tolerance:
                where = f"at batch {batch}" + (f", sequence {sequence}" if sequence else "")
                where += "" if scale == sampling.NORMAL else f", inputs {scale}"
                hint = f" (a size became a constant at {', '.join(self.of_sizes[:3])})" if self.of_sizes else ""
                raise ExportError(
                    f"output {tensor.name!r} of the TorchScript differs from the module's {where}: the trace holds "
                    f"for some sizes or values only{hint}; use --script, or keep such choices out of forward()"
                )

    def _look_at_padding(self, script: nn.Module, spec: ModelSpec, progress: Progress) -> None:
        batch, short, long = spec.batch[0], spec.sequence[0], spec.sequence[-1]
        inputs = self.inputs(batch, short)
        plain = self.run(script, inputs, "saved TorchScript").values()
        padded = self.run(script, sampling.pad_sequence(spec.inputs, inputs, long), "saved TorchScript").values()
        for tensor, a, b in zip(spec.outputs, plain, padded, strict=True):
            if SEQUENCE in tensor.shape:
                b = b.narrow(tensor.shape.index(SEQUENCE), 0, short)
            if (error := relative_error(a, b)) > spec.tolerance:
                progress(
                    f"warning: padding changes output {tensor.name!r} (relative error {error:.1e}): a query shorter "
                    "than its bucket gets another result; give the model a mask input, or a pad=N that it ignores"
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
