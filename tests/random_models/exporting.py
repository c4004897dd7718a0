"""The only place that knows the exporter's Python interface."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import torch
from model import RandomModel
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "models"))

from abacus_export.pipeline import export as export_model  # noqa: E402
from abacus_export.recipe import Built, Order  # noqa: E402
from abacus_export.spec import ExportError, parse_input  # noqa: E402


@dataclass(frozen=True)
class Exported:
    toml: Path
    file: Path  # the TorchScript
    outputs: tuple[str, ...]  # names, in the order of forward()
    batchable: bool
    padding: str | None
    pads: dict[str, int]  # by input; the exporter finds out what a mask's padding is


class Refused(Exception):
    """With the exporter's reason."""


def export(model: RandomModel, module: nn.Module, folder: Path, device: str) -> Exported:
    """As `export.py --module ... --no-worker` does it: the runner calls the worker by itself."""
    inputs = tuple(parse_input(tensor.text()) for tensor in model.inputs)
    order = Order(
        name=model.name,
        batch=model.batches,
        sequence=model.sequences,
        device=torch.device(device),
        seed=model.seed,
        out=folder,
        made_by="tests/random_models",
        worker=None,
    )
    try:
        if model.script:
            module = torch.jit.script(module)
        export_model(Built(module, inputs), order, lambda line: None)
    except ExportError as error:
        raise Refused(str(error)) from error
    toml = folder / f"{model.name}.toml"
    spec = tomllib.loads(toml.read_text(encoding="utf-8"))
    return Exported(
        toml,
        folder / spec["file"],
        tuple(tensor["name"] for tensor in spec["outputs"]),
        spec.get("batchable", True),
        spec["buckets"].get("sequence_padding", "harmless") if model.sequences else None,
        {tensor["name"]: tensor.get("pad", 0) for tensor in spec["inputs"]},
    )
