"""What a file is that is no TorchScript, as far as its bytes tell. Runs no code of it."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

_WEIGHTS_ONLY = "weights without code: write a factory that makes the module and loads them, and use --module"
_MAX_HEADER_BYTES = 100_000_000  # what the safetensors library accepts


def file_kind(path: Path) -> str | None:
    """The kind of file and what to do with it, or None."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
        if "data.pkl" in names and "constants.pkl" not in names:
            return _of_pickle(path)
        if "models/model.json" in names:
            return "it is an archive of torch.export: use --module with the factory of the module it came from"
        return None
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head[:1] == b"\x80":
            return _of_pickle(path)
        length = int.from_bytes(head, "little")
        if len(head) == 8 and 2 <= length <= min(size - 8, _MAX_HEADER_BYTES) and _is_json(file.read(length)):
            return f"it is a safetensors file, {_WEIGHTS_ONLY}"
    if _is_onnx(path, head):
        return "it is an ONNX model: use --module with the factory of the PyTorch module it came from"
    return None


def _is_json(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _is_onnx(path: Path, head: bytes) -> bool:
    """A protobuf message that opens with ONNX's ir_version (field 1) and goes on with another of its fields."""
    fields_2_to_8 = {0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42}
    return len(head) > 2 and head[0] == 0x08 and (head[2] in fields_2_to_8 or path.suffix == ".onnx")


def _of_pickle(path: Path) -> str:
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        return _of_objects(path)
    if isinstance(value, Mapping):
        return f"it holds a state dict or checkpoint, {_WEIGHTS_ONLY}"
    return f"it holds a {type(value).__name__}, {_WEIGHTS_ONLY}"


def _of_objects(path: Path) -> str:
    way_out = "write a factory that makes the module, or that loads this file, and use --module"
    try:
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an old format, or no pickle of PyTorch: its class cannot be told
        classes = []
    of = f" of {classes[0]}" if classes else ""
    return f"it is a pickled Python object{of} (torch.save() of a module?): {way_out}"
