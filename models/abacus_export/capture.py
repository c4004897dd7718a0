"""Whether a GPU can serve a model: its work is captured once into a CUDA graph and replayed for every query."""

from __future__ import annotations

import traceback

import torch
from torch import nn

from .spec import ExportError
from .tracing import place_in, place_in_text

_WAY_OUT = (
    "let forward() compute on the GPU alone: no .cpu(), .item(), boolean indexing or branch by values, and no "
    "pack_padded_sequence (run all positions and take the wanted ones with gather()); or export it with --device cpu"
)


def check_capture(script: nn.Module, module: nn.Module, inputs: list[torch.Tensor], device: torch.device) -> None:
    if device.type != "cuda":
        return
    try:
        _capture(script, inputs)
    except RuntimeError as error:
        torch.cuda.synchronize()
        place = _place_of_synchronisation(module, inputs)
        at = f" at {place}" if place else ""
        raise ExportError(
            f"cannot be captured into a CUDA graph, because forward() needs the CPU{at} ({_reason(error)}): {_WAY_OUT}"
        ) from error


def _reason(error: RuntimeError) -> str:
    """Its sentence: CUDA's errors begin with it, TorchScript's end with it, behind a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1] if lines[0].startswith("The following operation failed") else lines[0]


def _capture(script: nn.Module, inputs: list[torch.Tensor]) -> None:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.jit.optimized_execution(False):
        script(*(x.clone() for x in inputs))  # what is made on first use
    stream.synchronize()
    with torch.jit.optimized_execution(False), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream):
        script(*inputs)


def _place_of_synchronisation(module: nn.Module, inputs: list[torch.Tensor]) -> str:
    """FILE:LINE of the model's code that waits for the GPU, as far as PyTorch tells."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        module(*(x.clone() for x in inputs))
    except RuntimeError as error:
        return place_in(traceback.extract_tb(error.__traceback__)) or place_in_text(str(error))
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    return ""
