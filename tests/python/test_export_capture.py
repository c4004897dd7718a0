"""What a GPU cannot serve is refused with its place and reason."""

from __future__ import annotations

import pytest
import torch
from abacus_export.capture import _reason
from abacus_export.tracing import place_in_text
from export_run import line_of, run, user_arguments, user_folder  # noqa: F401

OF_TORCHSCRIPT = """The following operation failed in the TorchScript interpreter.
Traceback of TorchScript (most recent call last):
  File "nets.py", line 7, in forward
        if x.max() > 1:
           ~~~~~~~ <--- HERE
RuntimeError: called a synchronizing CUDA operation
"""
OF_CUDA = """CUDA error: operation not permitted when stream is capturing
Search for `cudaErrorStreamCaptureUnsupported' in the documentation for more information.
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""


def test_the_reason_is_the_sentence_of_an_error():
    assert _reason(RuntimeError(OF_TORCHSCRIPT)) == "RuntimeError: called a synchronizing CUDA operation"
    assert _reason(RuntimeError(OF_CUDA)) == "CUDA error: operation not permitted when stream is capturing"
    assert place_in_text(OF_TORCHSCRIPT) == "nets.py:7"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_that_reads_values_on_the_cpu_is_refused_for_a_gpu(capsys):
    inputs = ("ids:int64:batch,sequence:0..9", "lengths:int64:batch:1..SEQUENCE")
    arguments = user_arguments("ReadsLengths", *inputs, extra=("--sequence", "4,8"))
    assert run(*arguments) == 0
    assert run(*arguments, "--device", "cuda") == 1
    error = capsys.readouterr().err
    assert f"forward() needs the CPU at {line_of('lengths.cpu()')}" in error and "--device cpu" in error
