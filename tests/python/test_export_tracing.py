"""What a trace loses is refused with its place; what it keeps is exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from export_run import exported, line_of, run, user_arguments, user_folder  # noqa: F401


@pytest.mark.parametrize(
    ("module", "line", "reason"),
    [
        ("Branch", "if bool(x[0, 0] > 0)", "Converting a tensor to a Python boolean"),
        ("ValueInPython", "float(x.numpy().max())", "Converting a tensor to a NumPy array"),
        ("SilentBranch", "torch.equal(x, x.clamp(max=10))", "aten::equal answers a Python bool"),
        ("SizeFromValues", "if len(x[x > 10]) > 0", "Using len to get tensor shape"),
    ],
)
def test_a_choice_by_values_that_a_trace_loses_is_refused_with_its_place(module, line, reason, capsys):
    assert run(*user_arguments(module, "x:float32:batch,4")) == 1
    error = capsys.readouterr().err
    assert f"mine: {line_of(line)}: {reason}" in error and "use --script" in error
    assert not Path("out/mine.toml").exists()


def test_a_scripted_branch_holds_on_both_sides():
    assert run(*user_arguments("Branch", "x:float32:batch,4", extra=("--script",))) == 0
    module = exported()[1]
    assert module(torch.ones(2, 4))[0, 0] == 2 and module(-torch.ones(2, 4))[0, 0] == -2


def test_a_choice_by_sizes_is_traced_and_verified_at_every_bucket(capsys):
    assert run(*user_arguments("SizeBranch", "x:float32:batch,4")) == 0
    arguments = user_arguments("HarmfulSizeBranch", "x:float32:batch,4")
    assert run(*arguments, "--batch", "1,2,4") == 0  # 3 is never run
    capsys.readouterr()
    assert run(*arguments, "--batch", "1,2,3,4") == 1
    error = capsys.readouterr().err
    assert "differs from the module's at batch 3" in error and line_of("if x.shape[0] == 3") in error


def test_a_choice_by_sizes_after_a_constant_index_is_traced_and_after_a_mask_refused(capsys):
    assert run(*user_arguments("BranchAfterIndex", "x:float32:batch,4")) == 0
    assert exported()[1](torch.ones(3, 4)).shape == (3, 2)
    arguments = user_arguments("BranchAfterMask", "x:float32:batch,4")
    capsys.readouterr()
    assert run(*arguments) == 1
    assert line_of("if count > 100") in capsys.readouterr().err


def test_a_convolution_as_the_output_is_traced():
    assert run(*user_arguments("ConvolutionLast", "x:float32:batch,3,6,6")) == 0
    outputs = exported()[1](torch.randn(2, 3, 6, 6))
    assert [tuple(output.shape) for output in outputs] == [(2, 4, 4, 4), (2, 3, 6, 6)]


def test_a_batch_size_that_torch_nn_reads_as_a_value_is_traced(capsys):
    inputs = ("ids:int64:batch,sequence:0..9", "lengths:int64:batch:1..SEQUENCE")
    assert run(*user_arguments("PackedSequence", *inputs, extra=("--sequence", "4,8"))) == 0
    assert "warning" not in capsys.readouterr().out
    assert exported()[1](torch.ones(3, 8, dtype=torch.int64), torch.tensor([4, 1, 2])).shape == (3, 3)


def test_what_the_tracer_cannot_see_shows_at_another_scale(capsys):
    assert run(*user_arguments("HiddenBranch", "x:float32:batch,4")) == 1
    assert "differs from the module's at batch 1, inputs pixels 0..255" in capsys.readouterr().err


def test_a_scripted_function_may_choose_by_values_in_a_trace():
    assert run(*user_arguments("CallsScripted", "x:float32:batch,4", file="user_claims")) == 0
    module = exported()[1]
    assert module(torch.full((2, 4), 5.0))[0, 0] == 5 and module(torch.full((2, 4), 255.0))[0, 0] == 1
