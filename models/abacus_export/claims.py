"""Which queries may be padded and batched: what is measured, so that the description can claim it.

Rows of a batch are independent when a row's outputs stay the same whatever the other rows hold. Padding along the
sequence is harmless when a query gives the same outputs at its own length and at its bucket's. Differences that come
from rounding disappear in double precision, all others count.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from . import sampling
from .outputs import largest_value, relative_error, same_bits
from .precision import ROUNDING_OF_DOUBLE
from .recipe import Progress
from .runner import Runner
from .spec import ALLOWED, BATCH, EXACT, SEQUENCE, ExportError, ModelSpec, TensorSpec, last_line

_ATTEMPTS = 4  # to draw inputs that the module takes
_ROW_RUNS = 6
_PADDING_SEEDS = 2
_MAX_MASKS = 4

Tensors = list[torch.Tensor]


def claimed(runner: Runner, script: nn.Module, spec: ModelSpec, allow_padding: bool, progress: Progress) -> ModelSpec:
    """The description with what was found out about rows, padding along the sequence, and the masks' pad values."""
    if all(BATCH not in tensor.shape for tensor in spec.inputs):
        spec = replace(spec, batchable=False)
    elif reason := _Claims(runner, script, spec).dependence_of_rows():
        sizes = " or ".join(map(str, spec.batch))
        progress(
            f"note: the rows of a batch depend on each other ({reason}): a query must have exactly {sizes} rows, and "
            "never shares a batch with another"
        )
        spec = replace(spec, batchable=False)
    if not spec.sequence:
        return spec
    harmful = None
    for inputs in _choices_of_padding(spec.inputs):
        choice = replace(spec, inputs=inputs)
        reason = _Claims(runner, script, choice).effect_of_padding()
        if reason is None:
            for before, after in zip(spec.inputs, inputs, strict=True):
                if before.padding != after.padding:
                    progress(f"note: padding positions of input {after.name!r} hold {after.padding}: that is harmless")
            return choice
        harmful = harmful or reason
    if allow_padding:
        progress(f"note: {harmful}; all lengths are served, as --allow-padding says")
        return replace(spec, sequence_padding=ALLOWED)
    lengths = ", ".join(map(str, spec.sequence))
    progress(
        f"note: {harmful}: only queries of length {lengths} are served; give the model a mask as an input, a pad=N "
        "that it ignores, or say --allow-padding if padded queries are answered well enough"
    )
    return replace(spec, sequence_padding=EXACT)


def _choices_of_padding(inputs: tuple[TensorSpec, ...]) -> Iterator[tuple[TensorSpec, ...]]:
    """The inputs with every pad value that their masks may need: no name tells which of two values means padding."""
    masks = [i for i, t in enumerate(inputs) if t.is_two_valued and t.pad is None and SEQUENCE in t.shape][:_MAX_MASKS]
    for flipped in itertools.product((False, True), repeat=len(masks)):
        choice = list(inputs)
        for i, flip in zip(masks, flipped, strict=True):
            if flip:
                low, high = inputs[i].range or (0, 1)
                choice[i] = replace(inputs[i], pad=low + high - inputs[i].padding)
        yield tuple(choice)


@dataclass
class _Part:
    """What is compared of the outputs: rows or positions of a query, without padding."""

    symbol: str
    start: int
    size: int

    def of(self, specs: tuple[TensorSpec, ...], outputs: Tensors) -> Tensors:
        parts = []
        for spec, tensor in zip(specs, outputs, strict=True):
            if self.symbol in spec.shape and tensor.dim() == len(spec.shape):
                index = torch.arange(self.start, self.start + self.size, device=tensor.device)
                axis = spec.shape.index(self.symbol)
                tensor = tensor.index_select(axis, index[index < tensor.shape[axis]])
            parts.append(tensor)
        return parts


@dataclass
class _Pass:
    inputs: Tensors
    outputs: Tensors

    def precise(self, runner: Runner) -> tuple[Tensors, float] | None:
        """The outputs in double precision, as Precise gives them; computed once."""
        if not self._precise:
            self._precise.append(runner.precise.run_and_look(self.inputs))
        return self._precise[0]

    _precise: list[tuple[Tensors, float] | None] = field(default_factory=list)


class _Claims:
    def __init__(self, runner: Runner, script: nn.Module, spec: ModelSpec) -> None:
        self._runner, self._spec = runner, spec
        self._script = "saved TorchScript"
        self._modules = {"module": runner.built.module, self._script: script}

    # ---- rows of a batch

    def dependence_of_rows(self) -> str | None:
        """What shows that rows of a batch depend on each other; None: they are independent."""
        for batch, sequence in itertools.product(self._spec.batch, self._spec.sequence or (0,)):
            if batch > 1 and (found := self._other_rows_matter(batch, sequence)):
                return found
        ends = sorted({*self._spec.sequence[:1], *self._spec.sequence[-1:]}) or [0]
        scales = self._runner.scales
        for sequence in ends:
            alone: dict[tuple[int, str], _Pass | str] = {}
            for rows, batch in _rows_below(self._spec.batch):
                # A clamp may hide at one scale what shows at another. Passes of one row, as most queries have, are cheap.
                some = (scales[0], scales[(rows + batch) % len(scales)])
                for scale in scales if rows == 1 else dict.fromkeys(some):
                    if (rows, scale) not in alone:
                        alone[rows, scale] = self._plain(rows, sequence, 20, scale)
                    plain = alone[rows, scale]
                    if isinstance(plain, str) and scale != scales[0]:
                        continue  # values that the model is not made for
                    if found := self._padding_rows_matter(plain, rows, batch):
                        return found
        return None

    def _other_rows_matter(self, batch: int, sequence: int) -> str | None:
        """One row among others of several kinds, at the same size: every difference that is no rounding counts."""
        specs = self._spec.inputs
        rows = (0, batch // 2, batch - 1)
        usual, *others = self._runner.scales
        # Values of one sign, too: a question to all rows at once may be answered by rows of both signs alone.
        for what, scale in [*((what, usual) for what in self._modules), *((self._script, s) for s in others[:2])]:
            inputs = self._runner.inputs(batch, sequence, 11, scale)
            kinds = self._kinds_of_rows(inputs, batch, sequence)
            try:
                base = self._run(what, inputs)
            except ExportError:
                if scale == usual:
                    raise
                continue
            for i in range(max(_ROW_RUNS, len(kinds))):
                row = rows[i % len(rows)]
                kind, others = kinds[(i + i // len(kinds)) % len(kinds)]
                mixed = sampling.with_other_rows(specs, inputs, others, row)
                try:
                    other = self._run(what, mixed)
                except ExportError:
                    continue  # values that the model is not made for
                if (found := self._difference(_Part(BATCH, row, 1), base, other, what)) is not None:
                    return f"at batch {batch}, row {row} of {found} is another when the other rows hold {kind}"
        return None

    def _kinds_of_rows(self, inputs: Tensors, batch: int, sequence: int) -> list[tuple[str, Tensors]]:
        specs, scales = self._spec.inputs, self._runner.scales
        kinds = [("padding", [x.new_full(x.shape, spec.padding) for spec, x in zip(specs, inputs, strict=True)])]
        kinds += [
            ("other values" if scale == scales[0] else scale, self._runner.inputs(batch, sequence, 12 + i, scale))
            for i, scale in enumerate(scales)
        ]
        open_floats = [not spec.is_integer and spec.range is None for spec in specs]
        if any(open_floats):
            pairs = zip(open_floats, inputs, strict=True)
            kinds.append(("NaN", [x.new_full(x.shape, float("nan")) if is_open else x for is_open, x in pairs]))
        return kinds

    def _padding_rows_matter(self, plain: _Pass | str, rows: int, batch: int) -> str | None:
        """The module at its own size against the saved file at the bucket's, which is what serves."""
        if isinstance(plain, str):
            return f"the module itself fails at batch {rows}: {plain}"
        padded = self._run(self._script, sampling.pad_batch(self._spec.inputs, plain.inputs, batch))
        found = self._effect(_Part(BATCH, 0, rows), plain, padded)
        return None if found is None else f"{found} is another when {rows} rows are padded to {batch}"

    # ---- positions of a sequence

    def effect_of_padding(self) -> str | None:
        """What padding along the sequence changes, or why that cannot be known; None: it is harmless."""
        scales = self._runner.scales
        has_masks = any(tensor.is_two_valued and SEQUENCE in tensor.shape for tensor in self._spec.inputs)
        buckets_above: dict[int, list[int]] = {}
        for bucket in self._spec.sequence:
            for length in _lengths_below(bucket, self._spec.sequence):
                buckets_above.setdefault(length, []).append(bucket)
        for length, buckets in sorted(buckets_above.items()):
            # The last draw masks nothing, as most queries do; of one position none ever does.
            for seed in range(_PADDING_SEEDS + (has_masks and length > 1)):
                scale, unmasked = scales[(seed + length) % len(scales)], seed == _PADDING_SEEDS
                plain = self._plain(self._spec.batch[0], length, 30 + seed, scale, unmasked)
                for bucket in buckets:
                    if found := self._padding_matters(plain, length, bucket, scale):
                        return f"padding a query of length {length} to {bucket} changes its answer ({found})"
        return None

    def _padding_matters(self, plain: _Pass | str, length: int, bucket: int, scale: str) -> str | None:
        if isinstance(plain, str):
            # At the first scale every model must work; others are not for all.
            return f"the module itself fails at that length: {plain}" if scale == self._runner.scales[0] else None
        part = _Part(SEQUENCE, 0, length)
        try:
            padded = self._run(self._script, sampling.pad_sequence(self._spec.inputs, plain.inputs, bucket))
        except ExportError as error:
            return f"it fails: {last_line(error.__cause__ or error)}"
        if (found := self._effect(part, plain, padded)) is not None:
            return found
        try:
            unpadded = self._run(self._script, plain.inputs)
        except ExportError:
            return None  # the file is made for the lengths of the buckets
        found = self._difference(part, unpadded, padded)
        return None if found is None else f"{found} of the TorchScript"

    # ---- shared

    def _run(self, what: str, inputs: Tensors) -> _Pass:
        return _Pass(inputs, self._runner.run(self._modules[what], inputs, what))

    def _plain(
        self, batch: int, sequence: int, salt: int, scale: str | None = None, unmasked: bool = False
    ) -> _Pass | str:
        """A pass of the module at this size; or why it takes no inputs of it."""
        reason = ""
        for attempt in range(_ATTEMPTS):
            inputs = self._runner.inputs(batch, sequence, salt + 100 * attempt, scale)
            if unmasked:
                inputs = sampling.unmasked(self._spec.inputs, inputs)
            try:
                return self._run("module", inputs)
            except ExportError as error:
                reason = last_line(error.__cause__ or error)
        return reason

    def _effect(self, part: _Part, plain: _Pass, padded: _Pass) -> str | None:
        """What padding changes, also where that is less than single precision shows."""
        if (found := self._difference(part, plain, padded)) is not None:
            return found
        effect = self._precise_difference(part, plain, padded)
        return f"an output (relative error {effect:.1e} in double precision)" if effect else None

    def _difference(self, part: _Part, first: _Pass, second: _Pass, same_module: str | None = None) -> str | None:
        """The output whose part differs by more than rounding.

        `same_module`: it ran both at the same size, so that not even the bits should differ.
        """
        specs = self._spec.outputs
        errors = _errors(part, specs, first.outputs, second.outputs)
        name, error = max(zip((spec.name for spec in specs), errors, strict=True), key=lambda item: item[1])
        if error <= (0.0 if same_module else self._spec.tolerance):
            return None
        effect = self._precise_difference(part, first, second)
        # Where a conversion in the module's code leaves no double precision, little effects look like rounding; bits
        # tell them apart, unless integers (lengths of packed sequences) choose how a batch is computed.
        undecided = not effect and not self._ran_in_double(first, second) and error <= self._spec.tolerance
        if same_module and undecided and not any(spec.is_integer for spec in self._spec.inputs):
            again = self._run(same_module, first.inputs).outputs
            effect = float(all(same_bits(a, b) for a, b in zip(first.outputs, again, strict=True)))
        if effect == 0:
            return None
        return f"output {name!r} (relative error {error:.1e})"

    def _ran_in_double(self, *passes: _Pass) -> bool:
        found = [item.precise(self._runner) for item in passes]
        return all(item is not None and item[1] <= ROUNDING_OF_DOUBLE for item in found)

    def _precise_difference(self, part: _Part, first: _Pass, second: _Pass) -> float | None:
        """The difference in double precision, 0 where rounding explains it. None: it does not run so."""
        found = [item.precise(self._runner) for item in (first, second)]
        if any(item is None for item in found):
            return None
        (a, rounding), (b, other_rounding) = found
        effect = max(_errors(part, self._spec.outputs, a, b))
        return effect if effect > max(rounding, other_rounding) else 0.0


def _errors(part: _Part, specs: tuple[TensorSpec, ...], first: Tensors, second: Tensors) -> list[float]:
    """Relative to the largest value of a whole output: one row may be all zeros."""
    pairs = zip(part.of(specs, first), part.of(specs, second), first, strict=True)
    return [relative_error(a, b, largest_value(whole)) for a, b, whole in pairs]


def _rows_below(sizes: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """(rows, bucket) of queries in larger jobs: also of one that has a bucket of its own."""
    for bucket in sizes:
        below = {1, bucket // 2, bucket - 1, *sizes}
        yield from ((rows, bucket) for rows in sorted(below) if 1 <= rows < bucket)


def _lengths_below(bucket: int, buckets: tuple[int, ...]) -> list[int]:
    """Jobs pad short queries to the longest of them, so every shorter length may meet every bucket."""
    lengths = {1, bucket // 4, bucket // 2, 3 * bucket // 4, bucket - 1, *buckets}
    return sorted(length for length in lengths if 1 <= length < bucket)
