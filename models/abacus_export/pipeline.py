"""One export, from a built module to verified files."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from . import sampling
from .capture import check_capture
from .claims import claimed
from .publish import Files, publish
from .recipe import Built, Order, Progress
from .runner import Runner
from .spec import (
    BATCH,
    DTYPES,
    MAX_BATCH,
    MAX_BLOCK_BYTES,
    MAX_BUCKETS,
    MAX_SEQUENCE,
    MAX_TENSORS,
    SEQUENCE,
    ExportError,
    ModelSpec,
    TensorSpec,
    UsageError,
    last_line,
)
from .state import check_operators
from .worker import verify_in_worker


def export(built: Built, order: Order, progress: Progress) -> ModelSpec:
    """Writes the model's files and NAME.toml; nothing is left behind unless everything was verified."""
    _check_buckets(built.inputs, order.batch, order.sequence)
    _warn_of_open_ranges(built.inputs, progress)
    order.out.mkdir(parents=True, exist_ok=True)
    batch, sequence = order.batch[0], order.sequence[0] if order.sequence else 0
    with tempfile.TemporaryDirectory(prefix=f".{order.name}.", dir=order.out) as directory:
        files = Files(Path(directory), order.name)
        with torch.inference_mode():
            runner = Runner(built, order.device, order.seed)
            outputs = runner.discover_outputs(order.batch, order.sequence)
            runner.check_state(built.module, "module", batch, sequence)
            runner.check_first_query(batch, sequence)
            tolerance = runner.tolerance(order.batch, order.sequence, progress)
            spec = ModelSpec(order.name, tolerance, built.inputs, outputs, order.batch, order.sequence)
            progress("to TorchScript")
            script = runner.to_torchscript(order.batch, order.sequence)
            try:
                model = files.add("pt", partial(torch.jit.save, script))
            except RuntimeError as error:
                raise ExportError(f"cannot be saved ({last_line(error)})") from error
            del script
            progress("verifying the saved file")
            # As the worker does: constants of the graph stay where they were.
            saved = torch.jit.load(files.path(model)).to(order.device).eval()
            runner.check_state(saved, "saved TorchScript", batch, sequence)
            runner.verify(saved, spec)
            check_operators(saved)
            check_capture(saved, built.module, runner.inputs(batch, sequence), order.device)
            progress("padding: rows of a batch, positions of a sequence")
            spec = claimed(runner, saved, spec, order.allow_padding, progress)
        libraries = tuple(files.add_library(path) for path in order.libraries)
        spec = replace(spec, file=model, libraries=libraries)
        description = files.describe(spec, order.made_by)
        if built.write_companions is not None:
            built.write_companions(files.companions)
        if order.worker is not None:
            del saved, runner
            built.module = None  # the worker program needs the memory
            if order.device.type == "cuda":
                torch.cuda.empty_cache()
            progress("loading it in the worker program")
            verify_in_worker(order.worker, description, order.device, progress)
        publish(files, spec, order.out)
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
    for option, sizes, largest in (("--batch", batch, MAX_BATCH), ("--sequence", sequence, MAX_SEQUENCE)):
        if sizes and sizes[-1] > largest:
            raise UsageError(f"{option} {sizes[-1]}: at most {largest}")
    if len(batch) * max(1, len(sequence)) > MAX_BUCKETS:
        raise UsageError(f"more than {MAX_BUCKETS} buckets; use fewer batch sizes or sequence lengths")
    for tensor in inputs:
        if tensor.range and tensor.range[1] == SEQUENCE:
            if not uses_sequence:
                raise UsageError(f"input {tensor.name!r}: LOW..SEQUENCE needs an input with a 'sequence' dimension")
            if sequence[-1] > DTYPES[tensor.dtype][1]:
                raise UsageError(f"input {tensor.name!r}: {tensor.dtype} does not hold the length {sequence[-1]}")
    _check_memory(inputs, batch[-1], sequence[-1] if sequence else 0)


def _check_memory(inputs: tuple[TensorSpec, ...], batch: int, sequence: int) -> None:
    """Refuses sizes that would have this process killed for lack of memory."""
    elements = [torch.Size(tensor.shape_at(batch, sequence)).numel() for tensor in inputs]
    size = sum(n * getattr(torch, tensor.dtype).itemsize for n, tensor in zip(elements, inputs, strict=True))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size >= min(MAX_BLOCK_BYTES, memory // 4):
        raise UsageError(
            f"the inputs of the largest bucket take {size / 1e9:.3g} GB, this machine has {memory / 1e9:.3g} GB of "
            "memory: use a smaller --batch or --sequence"
        )


def _warn_of_open_ranges(inputs: tuple[TensorSpec, ...], progress: Progress) -> None:
    for tensor in inputs:
        if tensor.is_integer and tensor.range is None and tensor.dtype != "bool":
            low, high = sampling.range_of(tensor, 0)
            progress(
                f"warning: input {tensor.name!r} ({tensor.dtype}) has no range, so every value of a query reaches the "
                "model; an index outside of its table fails the query, and on a GPU can take down every worker. Only "
                f"{low}..{high} is verified; declare what is allowed, such as {tensor.name}:{tensor.dtype}:...:0..99"
            )
